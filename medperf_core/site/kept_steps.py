"""Where the outputs of steps are kept, and what is locked while one is made, used first, or freed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from medperf_core.site.home import Home

STEPS = "steps"
"""Folder in the cache, with a folder for each kept step, named by its key."""
NOTE = "step.json"
"""In the folder of a kept step: its record, and the digests of its outputs."""


def step_lock(home: Home, key: str) -> Path:
    """The lock file of a step."""
    return home.locks / f"step-{key[:32]}.lock"


def note_step_use(kept: Path) -> None:
    """Note that a kept step is used now."""
    with suppress(OSError):  # a cache that only others may write to
        os.utime(kept / NOTE)


def step_used(kept: Path) -> float:
    """When it was last used, in seconds since the epoch; 0 for what is no step."""
    try:
        return (kept / NOTE).stat().st_mtime
    except OSError:
        return 0.0


def sweep_step_locks(home: Home) -> None:
    """Remove the lock files of steps; only while nobody uses the cache."""
    for path in home.locks.glob("step-*.lock"):
        with suppress(OSError):
            path.unlink()
