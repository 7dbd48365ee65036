"""Hashes all that the cache holds again: files, trees, kept steps and copies of backends; what was changed goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from medperf_core.plugin.digest import path_digest
from medperf_core.plugin.kept import is_intact, keeping
from medperf_core.site.cache import Cache
from medperf_core.site.cache_contents import FILES, Kept, Sort, contents, remove_aside
from medperf_core.site.home import Home
from medperf_core.site.kept_steps import NOTE, step_lock


@attrs.frozen
class Verified:
    """What came of it.

    Attributes:
        intact: how many are what they were.
        dropped: what was not, and is gone.
        unknown: how many cannot be checked here, or are being made anew; who uses them checks them before.
        size: bytes of all that was hashed.
    """

    intact: int
    dropped: tuple[Kept, ...]
    unknown: int
    size: int


def verify_all(home: Home, folder: Path, on_bytes: Callable[[int, int], None] | None = None) -> Verified:
    """Check everything, whatever it looks like.

    Args:
        folder: of the cache, which the caller uses (see ``cache_users``).
        on_bytes: is told how many bytes of how many were hashed.
    """
    cache = Cache(folder / FILES)
    found = [item for item in contents(folder) if item.sort is not Sort.PARTIAL]
    total, done = sum(item.size for item in found), 0
    intact, unknown, dropped = 0, 0, []
    for item in found:
        if on_bytes is not None:
            on_bytes(done, total)
        good = _check(home, cache, item)
        done += item.size
        if good is None:
            unknown += 1
        elif good:
            intact += 1
        else:
            dropped.append(item)
    if on_bytes is not None:
        on_bytes(total, total)
    return Verified(intact, tuple(dropped), unknown, total)


def _check(home: Home, cache: Cache, item: Kept) -> bool | None:
    if item.entry is not None:
        return cache.verify_entry(item.entry)
    if item.sort is Sort.STEP:
        try:
            with FileLock(step_lock(home, item.name), timeout=0, mode=0o600):
                good: bool | None = not item.path.exists() or _is_step(item.path)
                if good is False:
                    remove_aside(item.path)
        except Timeout:
            return None
        return good
    good = is_intact(item.path)
    if good is False:
        with keeping(item.path.parent):
            if not item.path.exists():
                return True  # removed meanwhile by who keeps it
            if is_intact(item.path) is False:
                remove_aside(item.path)
    return good


def _is_step(kept: Path) -> bool:
    """Whether the outputs of a kept step are what they were."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return all(path_digest(kept / path) == digest for path, digest in _outputs(kept))
    return False


def _outputs(kept: Path) -> Iterator[tuple[str, str]]:
    data = json.loads((kept / NOTE).read_text(encoding="utf-8"))
    for entry in data["outputs"].values():
        yield entry["path"], entry["digest"]
