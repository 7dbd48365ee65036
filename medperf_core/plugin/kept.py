"""Folders that a backend keeps in the site's cache and that ``medperf cache gc`` may free.

A backend that wants that keeps each of them directly below its own folder (``cache_dir/NAME``), and works on that
folder under ``keeping``. The time of a kept folder says when it was last used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

LOCK = ".kept.lock"
"""In a backend's folder: held while something there is made, taken into use, or freed."""


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Hold a backend's folder; made if it is not there. Not to be nested."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(folder / LOCK, mode=0o600):
        yield


def note_use(kept: Path) -> None:
    """Note that a kept folder is used now; until the command ends, it is not freed."""
    with suppress(OSError):  # a cache that only others may write to
        os.utime(kept)
