"""Frees what of the cache was not used for longest: files, trees, interrupted files, kept steps, copies of backends.

What a running command used, or may be using, stays, and so does what a loaded bundle brought: where there is no
connection it could not be had again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from medperf_core.plugin.kept import LOCK, keeping
from medperf_core.site.cache import Cache, CacheEntry, tree_size
from medperf_core.site.cache_move import finish_move
from medperf_core.site.cache_users import freeing
from medperf_core.site.home import Home, remove_tree
from medperf_core.site.kept_steps import STEPS, step_lock, step_used

FILES = "files"
"""Folder in the cache of the content-addressed store."""
DAY = 24 * 3600.0
USUAL_DAYS = 30.0
"""What was not used for so long is freed where nothing else is said."""
_ASIDE = ".freed-"


class Sort(StrEnum):
    """What kind of thing is kept."""

    FILE = "file"
    TREE = "tree"
    PARTIAL = "partial"
    STEP = "step"
    COPY = "copy"


@attrs.frozen
class Kept:
    """Something in the cache.

    Attributes:
        sort: what it is.
        name: its SHA-256, or its name in the folder of a backend.
        path: where it is.
        size: bytes.
        used: seconds since the epoch.
        entry: of the content-addressed store; None for others.
    """

    sort: Sort
    name: str
    path: Path
    size: int
    used: float
    entry: CacheEntry | None = None


@attrs.frozen
class Freed:
    """What ``collect`` did.

    Attributes:
        freed: what went (or would go), the longest unused first.
        left: bytes that are left.
        busy: bytes of what would have gone but may be in use.
    """

    freed: tuple[Kept, ...]
    left: int
    busy: int


def collect(
    home: Home,
    *,
    older_than: float | None = None,
    keep: int | None = None,
    dry_run: bool = False,
    pinned: frozenset[str] = frozenset(),
) -> Freed:
    """Free the longest unused first.

    Args:
        older_than: days; only what was not used for longer. None for any age if ``keep`` is given, else 30 days.
        keep: bytes; stop as soon as no more are left. None to free all that is old enough.
        dry_run: free nothing, only say what would be.
        pinned: SHA-256 of files that stay.

    Raises:
        ConfigurationError: the cache is being moved, or is not there.
    """
    if older_than is None and keep is None:
        older_than = USUAL_DAYS
    with freeing(home) as (folder, in_use_since):
        cache = Cache(folder / FILES)
        if not dry_run:
            finish_move(home)
            cache.remove_leftovers()
            _remove_aside(folder)
        kept = sorted(_all(cache, folder), key=lambda item: (item.used, item.sort, item.name))
        left = sum(item.size for item in kept)
        oldest = time.time() - (older_than or 0.0) * DAY
        gone, busy = [], 0
        for item in kept:
            if (keep is not None and left <= keep) or (older_than is not None and item.used > oldest):
                break
            if item.name in pinned:
                continue
            if item.used >= in_use_since or not (dry_run or _free(home, cache, item, in_use_since)):
                busy += item.size
                continue
            gone.append(item)
            left -= item.size
    return Freed(tuple(gone), left, busy)


def _all(cache: Cache, folder: Path) -> Iterator[Kept]:
    for entry in cache.entries():
        yield Kept(Sort(entry.kind.value), entry.sha256, entry.path, entry.size, entry.used, entry)
    for path in _folders(folder / STEPS):
        yield Kept(Sort.STEP, path.name, path, tree_size(path), step_used(path))
    for store in _folders(folder):
        if (store / LOCK).is_file():
            for path in _folders(store):
                with suppress(OSError):
                    yield Kept(Sort.COPY, path.name, path, tree_size(path), path.lstat().st_mtime)


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return []


def _free(home: Home, cache: Cache, item: Kept, in_use_since: float) -> bool:
    if item.entry is not None:
        return cache.free(item.entry, in_use_since)
    if item.sort is Sort.STEP:
        try:
            with FileLock(step_lock(home, item.name), timeout=0, mode=0o600):
                return step_used(item.path) < in_use_since and _remove(item.path)
        except Timeout:
            return False
    with keeping(item.path.parent):
        try:
            return item.path.lstat().st_mtime < in_use_since and _remove(item.path)
        except OSError:
            return False


def _remove(path: Path) -> bool:
    """Takes its name away in one step, then removes it."""
    aside = path.with_name(f"{_ASIDE}{secrets.token_hex(8)}")
    path.rename(aside)
    remove_tree(aside)
    return True


def _remove_aside(folder: Path) -> None:
    """What a killed run of this left half removed."""
    for store in _folders(folder):
        for path in store.glob(f"{_ASIDE}*"):
            remove_tree(path)
