"""Looks whether files that are about to leave are data, under whatever name, link or mount.

A folder is gone through once, with one look at each file. Only if a file of it has a second name elsewhere (a hard
link), the data are gone through too, to see whether that is there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from medperf_core.site.cache_place import MARKER
from medperf_core.site.file_identity import FileIdentity, identity_of
from medperf_core.site.mounts import Mounts, covers

LIST_FILE = "data-folders.json"
"""In the records of a home: its list of data folders."""
RECORDS = "records"
_SITE_FILES = (f"/{MARKER}", f"/{RECORDS}/{LIST_FILE}")


@attrs.frozen
class Root:
    """A folder, or file, that must not leave.

    Attributes:
        path: its real path when it became known.
        identity: what it was then; None if that is not known.
        reason: why not, after its path.
    """

    path: str
    identity: FileIdentity | None = None
    reason: str = "was used as data here"


@attrs.frozen
class _Links:
    """A file that has several names."""

    path: str
    count: int
    seen: int = 1


class DataSearch:
    """One search, with what is known and mounted now."""

    def __init__(self, roots: Iterable[Root]) -> None:
        self._roots = tuple(roots)
        self._mounts = Mounts.read()
        # what is no longer there, such as the output of a task that failed, is in no folder
        self._there = {root.path for root in self._roots if os.path.lexists(root.path)}
        there = [root for root in self._roots if root.path in self._there]
        self._places = [(place, root) for root in there for place in self._mounts.places(root.path)]
        self._by_inode: dict[int, list[tuple[FileIdentity, Root]]] = {}
        for root in self._roots:
            for identity in (root.identity, identity_of(root.path)):
                if identity is not None:
                    self._by_inode.setdefault(identity.inode, []).append((identity, root))

    def why_not(self, path: str) -> str | None:
        """Why a file or folder must not leave, as a sentence without its full stop; None if nothing speaks against it.

        It must not if it is, holds, or lies in something known: by its path, by a link in it, by another name of the
        same folder or file, or by a mount.
        """
        real = os.path.realpath(path)
        return self._at(real) or self._through(real)

    def _at(self, real: str) -> str | None:
        """By a path itself, and the folders above it."""
        for root in self._roots:
            if covers(root.path, real) or (covers(real, root.path) and root.path in self._there):
                return f"{root.path} {root.reason}"
        for place in self._mounts.places(real):
            for other, root in self._places:
                if place.overlaps(other):
                    return f"by a mount it shares files with {root.path}, which {root.reason}"
        for above in (real, *map(str, Path(real).parents)):
            if (known := self._known(above)) or (known := _other_site(above)):
                return known
        return None

    def _through(self, real: str) -> str | None:
        """By what is in a folder, or by the other names of a file."""
        several: dict[tuple[int, int], _Links] = {}
        for path, status in _walk(real, None):
            if status.st_ino in self._by_inode and (known := self._known(path)):
                return known
            if path.endswith(_SITE_FILES):
                return _site_of(path)
            if stat.S_ISLNK(status.st_mode):
                target = os.path.realpath(path)
                if not covers(real, target) and (known := self._at(target)):
                    return f"{path} leads to {target}: {known}"
            elif status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                key = (status.st_dev, status.st_ino)
                links = several.get(key)
                several[key] = (
                    _Links(path, status.st_nlink) if links is None else attrs.evolve(links, seen=links.seen + 1)
                )
        return self._among_data({key: links for key, links in several.items() if links.seen < links.count})

    def _known(self, path: str) -> str | None:
        """By the identity of one file or folder."""
        try:
            candidates = self._by_inode.get(os.lstat(path).st_ino)
        except OSError:
            return None
        identity = identity_of(path) if candidates else None
        for known, root in candidates or ():
            if identity is not None and identity.is_that(known):
                return f"{path} is {root.path} under another name, which {root.reason}"
        return None

    def _among_data(self, several: dict[tuple[int, int], _Links]) -> str | None:
        if not several:
            return None
        unreadable: list[str] = []
        example = next(iter(several.values())).path
        for root in self._outermost():
            for path, status in _walk(root.path, unreadable):
                links = several.get((status.st_dev, status.st_ino))
                if links is not None:
                    return f"{links.path} is the same file as {path}, and {root.path} {root.reason}"
            if unreadable:
                return (
                    f"{example} has a second name elsewhere, and {unreadable[0]} cannot be read to see whether it is "
                    f"there, but {root.path} {root.reason}"
                )
        return None

    def _outermost(self) -> Iterator[Root]:
        done: list[str] = []
        for root in sorted(self._roots, key=lambda each: each.path):
            if not any(covers(path, root.path) for path in done):
                done.append(root.path)
                yield root


def _walk(top: str, unreadable: list[str] | None) -> Iterator[tuple[str, os.stat_result]]:
    """All that is below a folder, or a file by itself, with its status; links are not followed.

    Args:
        unreadable: gets the folders that may not be read. None where it does not matter: what cannot be read cannot be
            packed.
    """
    try:
        status = os.lstat(top)
    except OSError:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield top, status
        return
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            listing = os.scandir(folder)
        except OSError as error:
            if unreadable is not None and error.errno not in (errno.ENOENT, errno.ENOTDIR):
                unreadable.append(folder)
            continue
        with listing:
            for item in listing:
                try:
                    status = item.stat(follow_symlinks=False)
                except OSError:  # gone since
                    continue
                yield item.path, status
                if stat.S_ISDIR(status.st_mode):
                    folders.append(item.path)


def _other_site(folder: str) -> str | None:
    """Whether a folder is a cache or a home of this program that it does not know: a copy, or one that was moved."""
    files = (f"{folder}{file}" for file in _SITE_FILES)
    return next((_site_of(file) for file in files if os.path.lexists(file)), None)


def _site_of(file: str) -> str:
    return f"beside {file} a site keeps its prepared data"
