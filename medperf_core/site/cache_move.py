"""Puts the cache on another disk. A kill at any moment leaves the old cache whole or the new one whole.

The copy is marked as not whole until every file was read back and found equal; then one atomic write of the home's
file switches to it; then the old one is removed, by the next move or ``medperf cache gc`` if this one is killed.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from medperf_core.errors import TransferError, UsageError, VerificationError
from medperf_core.plugin.digest import CHUNK
from medperf_core.site.atomic import sync_folder
from medperf_core.site.cache_place import (
    MARKER,
    USUAL,
    WORK,
    Place,
    cache_folder,
    read_marker,
    read_place,
    write_marker,
    write_place,
)
from medperf_core.site.cache_users import USERS, moving
from medperf_core.site.home import Home, remove_tree

MARGIN = 64 << 20
"""Bytes that must be left on the new disk."""
_LEFT_OUT = frozenset({USERS, WORK, MARKER, "lost+found"})


@attrs.frozen
class Moved:
    """What was done.

    Attributes:
        old, new: where the cache was and is.
        files, size: how many files, and their bytes.
    """

    old: Path
    new: Path
    files: int
    size: int


def move_cache(
    home: Home, target: Path, *, lost: bool = False, on_bytes: Callable[[int, int], None] | None = None
) -> Moved:
    """Move the cache.

    Args:
        target: a folder that is not there, is empty, or is what an interrupted move to it left.
        lost: the present cache is gone for good; begin with an empty one.
        on_bytes: is told how many bytes of how many are copied and checked (each counts for both).

    Raises:
        UsageError: the folder cannot be taken.
        ConfigurationError: another command uses the cache, or it is not there.
        TransferError: it cannot be written, or the disk is too small; the old cache is as it was.
        VerificationError: the disk gave back something else than was written to it.
    """
    # Links are followed only as far as the folder that is to hold it: the cache itself must be no link.
    target = Path(os.path.realpath(target.expanduser().absolute()))
    with moving(home):
        present = _lost(home) if lost else _present(home)
        old, id = present.folder, present.id
        _check_target(home, None if lost else old, target, id)
        try:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            target.chmod(0o700)
            _empty(target)
            write_marker(target, id, whole=False)
            copied = (0, 0) if lost else _copy(old, target, on_bytes or (lambda done, total: None))
            write_marker(target, id, whole=True)
        except OSError as error:
            raise TransferError(
                f"The cache could not be copied to {target}: {error.strerror or error}.",
                hint="Nothing was changed: the cache is where it was.",
            ) from error
        write_place(home.path, Place(target, id, None if lost else old))
        finish_move(home)
    return Moved(old, target, *copied)


def _present(home: Home) -> Place:
    """Where the cache is, with an id that both sides know before anything is copied."""
    finish_move(home)
    place = read_place(home.path)
    if place is None:
        place = Place(home.path / USUAL, secrets.token_hex(16))
        write_marker(place.folder, place.id, whole=True)
        write_place(home.path, place)
    cache_folder(home.path)
    return place


def _lost(home: Home) -> Place:
    place = read_place(home.path)
    if place is None or read_marker(place.folder) == (place.id, True):
        raise UsageError("The cache is there, so it is not lost.", hint="Leave out --lost to move it.")
    return place


def finish_move(home: Home) -> None:
    """Remove the old cache of a move that was killed after it had switched; nobody uses that one."""
    place = read_place(home.path)
    if place is None or place.old is None:
        return
    cache_folder(home.path)  # not without the new one
    ours = place.old == home.path / USUAL or _is_cache(place.old, place.id)
    if place.old != place.folder and ours and place.old.is_dir():
        _empty(place.old)
        (place.old / MARKER).unlink(missing_ok=True)
        try:
            place.old.rmdir()
        except OSError:
            pass  # the root of a disk, or somebody else's files in it
    write_place(home.path, Place(place.folder, place.id))


def _is_cache(folder: Path, id: str) -> bool:
    marker = read_marker(folder)
    return marker is not None and marker[0] == id


def _check_target(home: Home, old: Path | None, target: Path, id: str) -> None:
    own, here = Path(os.path.realpath(home.path)), Path(os.path.realpath(old)) if old else None
    if target == here:
        raise UsageError(f"The cache is in {target} already.")
    if target != own / USUAL and (target.is_relative_to(own) or own.is_relative_to(target)):
        raise UsageError(
            f"{target} is, holds or lies in the home folder {own}.", hint="Name a folder outside of it, for the cache."
        )
    if here is not None and (target.is_relative_to(here) or here.is_relative_to(target)):
        raise UsageError(f"{target} holds or lies in the present cache {here}.", hint="Name a folder apart from it.")
    try:
        found = {entry.name for entry in target.iterdir()} - {"lost+found"}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"{target} cannot be used: {error.strerror}.", hint="Name a folder that you can write."
        ) from error
    if not found:
        return
    marker = read_marker(target)
    if marker is None and not _only_a_marker(found):
        raise UsageError(
            f"{target} is not empty, and it is no cache: it has {sorted(found)[0]}.", hint="Name a new or empty folder."
        )
    if marker is not None and marker[0] != id:
        raise UsageError(f"{target} is the cache of another home.", hint="Name a new or empty folder.")


def _only_a_marker(names: set[str]) -> bool:
    """What a move leaves that was killed before its first write was done."""
    return all(name.startswith(f".{MARKER}.") and name.endswith(".tmp") for name in names)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name not in (MARKER, "lost+found"):
            remove_tree(entry)


def _copy(old: Path, new: Path, on_bytes: Callable[[int, int], None]) -> tuple[int, int]:
    entries = list(_entries(old))
    total = sum(status.st_size for _, status in entries if stat.S_ISREG(status.st_mode))
    free = shutil.disk_usage(new).free
    if free < total + MARGIN:
        raise TransferError(
            f"The cache has {total} bytes, and the disk of {new} has room for {free} only.",
            hint="Free some of it first (medperf cache gc), or name another disk. Nothing was changed.",
        )
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        on_bytes(done, 2 * total)

    hashes = {}
    folders = []
    for path, status in entries:
        place = new / path.relative_to(old)
        if stat.S_ISDIR(status.st_mode):
            place.mkdir(mode=0o700)
            folders.append((place, status))
        elif stat.S_ISLNK(status.st_mode):
            place.symlink_to(_link(path, old, new))
        elif stat.S_ISREG(status.st_mode):
            hashes[place] = _copy_file(path, place, status, count)
    os.sync()
    for place, expected in hashes.items():
        if _read_back(place, count) != expected:
            raise VerificationError(
                f"{place} is not what was written there.", hint="The disk is not to be trusted. Nothing was changed."
            )
    for place, status in reversed(folders):
        place.chmod(stat.S_IMODE(status.st_mode))
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    sync_folder(new)
    return len(hashes), total


def _entries(old: Path) -> Iterator[tuple[Path, os.stat_result]]:
    def raise_it(error: OSError) -> None:
        raise error

    for folder, names, files in os.walk(old, onerror=raise_it):
        if Path(folder) == old:
            names[:] = [name for name in names if name not in _LEFT_OUT]
            files = [name for name in files if name not in _LEFT_OUT]
        for name in (*names, *files):
            path = Path(folder, name)
            yield path, path.lstat()


def _link(path: Path, old: Path, new: Path) -> str:
    """The target of the copied link: what lies in the cache is meant in the new one."""
    target = path.readlink()
    return str(new / target.relative_to(old)) if target.is_relative_to(old) else str(target)


def _copy_file(source: Path, target: Path, status: os.stat_result, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with source.open("rb") as reading, os.fdopen(os.open(target, flags, 0o600), "wb") as writing:
        while data := reading.read(CHUNK):
            digest.update(data)
            writing.write(data)
            on_bytes(len(data))
        writing.flush()
        os.fchmod(writing.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(writing.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    return digest.hexdigest()


def _read_back(path: Path, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, as far as the system can
        while data := stream.read(CHUNK):
            digest.update(data)
            on_bytes(len(data))
    return digest.hexdigest()
