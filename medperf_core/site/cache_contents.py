"""All that the cache of a site holds: files, trees, interrupted files, kept steps, copies of backends."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path, PurePath

import attrs

from medperf_core.plugin.archive_memory import FOLDER as IMAGE_ARCHIVES
from medperf_core.plugin.kept import LOCK
from medperf_core.site.cache import Cache, CacheEntry, tree_size
from medperf_core.site.cache_place import WORK
from medperf_core.site.cache_users import USERS
from medperf_core.site.home import remove_tree
from medperf_core.site.kept_steps import STEPS, step_used
from medperf_core.site.saved_images import SAVED

FILES = "files"
"""Folder in the cache of the content-addressed store."""
DIGESTS = "digests"
"""Folder in the cache of what is remembered of hashes; see ``digest_cache``."""
LEFT_OUT = frozenset({STEPS, USERS, WORK})
"""Folders that are not copied when the cache is moved: they hold patients' data, or what only matters now."""
PARTS = frozenset({FILES, DIGESTS, SAVED, IMAGE_ARCHIVES}) | LEFT_OUT
"""Folders of the cache that are no backend's."""
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
        name: its SHA-256; for a copy, its path in the cache.
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


def contents(folder: Path) -> list[Kept]:
    """Everything in the cache in a folder, the longest unused first."""
    return sorted(_all(Cache(folder / FILES), folder), key=lambda item: (item.used, item.sort, item.name))


def _all(cache: Cache, folder: Path) -> Iterator[Kept]:
    for entry in cache.entries():
        yield Kept(Sort(entry.kind.value), entry.sha256, entry.path, entry.size, entry.used, entry)
    for path in _folders(folder / STEPS):
        yield Kept(Sort.STEP, path.name, path, tree_size(path), step_used(path))
    for store in stores(folder):
        for path in _folders(store):
            with suppress(OSError):
                yield Kept(Sort.COPY, str(path.relative_to(folder)), path, tree_size(path), path.lstat().st_mtime)


def stores(folder: Path) -> Iterator[Path]:
    """Folders in which backends keep what may be freed; see ``plugin.kept``."""
    for place in _folders(folder):
        yield from (store for store in (place, *_folders(place)) if (store / LOCK).is_file())


def is_passing(path: PurePath) -> bool:
    """Whether a path in the cache is of what matters while a command runs only: a lock, or a file on its way in."""
    match path.parts:
        case (name, "locks" | "temp", _, *_) if name == FILES:
            return True
        case (name, "partial", file) if name == FILES:
            return file.endswith(".lock")
    return False


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return []


def remove_aside(path: Path) -> bool:
    """Takes the name of a folder away in one step, then removes it."""
    aside = path.with_name(f"{_ASIDE}{secrets.token_hex(8)}")
    path.rename(aside)
    remove_tree(aside)
    return True


def remove_rests(folder: Path) -> None:
    """What a killed run left half removed."""
    for store in (folder / STEPS, *stores(folder)):
        for path in store.glob(f"{_ASIDE}*"):
            remove_tree(path)
