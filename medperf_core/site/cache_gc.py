"""Frees what of the cache was not used for longest: files, trees, interrupted files, kept steps, copies of backends.

What a running command used, or may be using, stays, and so does what a loaded bundle brought: where there is no
connection it could not be had again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import attrs
from filelock import FileLock, Timeout

from medperf_core.errors import ConfigurationError
from medperf_core.plugin.kept import keeping
from medperf_core.site.cache import Cache
from medperf_core.site.cache_contents import FILES, Kept, Sort, contents, remove_aside, remove_rests
from medperf_core.site.cache_move import finish_move
from medperf_core.site.cache_users import freeing, moving
from medperf_core.site.home import Home
from medperf_core.site.kept_steps import step_lock, step_used, sweep_step_locks
from medperf_core.site.saved_images import forget_stale

DAY = 24 * 3600.0
USUAL_DAYS = 30.0
"""What was not used for so long is freed where nothing else is said."""


@attrs.frozen
class Freed:
    """What ``collect`` did.

    Attributes:
        freed: what went (or would go), the longest unused first.
        left: bytes that are left.
        busy: bytes of what would have gone but may be in use.
        pinned: bytes of what would have gone but is pinned.
        rests: bytes of what killed commands had left behind, which went too (or would go).
    """

    freed: tuple[Kept, ...]
    left: int
    busy: int
    pinned: int = 0
    rests: int = 0


def collect(
    home: Home,
    *,
    older_than: float | None = None,
    keep: int | None = None,
    dry_run: bool = False,
    pinned: Callable[[], frozenset[str]] = frozenset,
) -> Freed:
    """Free the longest unused first.

    Args:
        older_than: days; only what was not used for longer. None for any age if ``keep`` is given, else 30 days.
        keep: bytes; stop as soon as no more are left. None to free all that is old enough, -1 to free everything.
        dry_run: free nothing, only say what would be.
        pinned: gives the SHA-256 of files that stay; is asked once it is known which commands run, so that nothing
            becomes pinned unnoticed.

    Raises:
        ConfigurationError: the cache is being moved, or is not there.
    """
    if older_than is None and keep is None:
        older_than = USUAL_DAYS
    with freeing(home) as (folder, in_use_since):
        cache, staying = Cache(folder / FILES), pinned()
        rests = sum(size for _, size in cache.leftovers(in_use_since))
        if not dry_run:
            finish_move(home)
            rests = cache.remove_leftovers(in_use_since)
            remove_rests(folder)
        kept = contents(folder)
        left = sum(item.size for item in kept)
        oldest = time.time() - (older_than or 0.0) * DAY
        gone, busy, held = [], 0, 0
        for item in kept:
            if (keep is not None and left <= keep) or (older_than is not None and item.used > oldest):
                break
            if item.name in staying:
                held += item.size
                continue
            if item.used >= in_use_since or not (dry_run or _free(home, cache, item, in_use_since)):
                busy += item.size
                continue
            gone.append(item)
            left -= item.size
        if not dry_run:
            forget_stale(folder, cache)
    if not dry_run:
        _sweep_locks(home)
    return Freed(tuple(gone), left, busy, held, rests)


def _sweep_locks(home: Home) -> None:
    """Remove lock files, which are never removed otherwise, unless somebody uses the cache."""
    with suppress(ConfigurationError), moving(home):
        Cache(home.cache_dir / FILES).sweep_locks()
        sweep_step_locks(home)


def _free(home: Home, cache: Cache, item: Kept, in_use_since: float) -> bool:
    if item.entry is not None:
        return cache.free(item.entry, in_use_since)
    if item.sort is Sort.STEP:
        try:
            with FileLock(step_lock(home, item.name), timeout=0, mode=0o600):
                return step_used(item.path) < in_use_since and remove_aside(item.path)
        except Timeout:
            return False
    with keeping(item.path.parent):
        try:
            return item.path.lstat().st_mtime < in_use_since and remove_aside(item.path)
        except OSError:
            return False
