"""Puts the cache on another disk. A kill at any moment leaves the old cache whole or the new one whole.

The copy is marked as not whole until every file was read back and found equal; then one atomic write of the home's
file switches to it; then the old one is removed, by the next move or ``medperf cache gc`` if this one is killed. Only
folders that the cache is made of are copied and removed, never what else somebody put beside them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs

from medperf_core.errors import ConfigurationError, TransferError, UsageError, VerificationError
from medperf_core.plugin.digest import CHUNK
from medperf_core.site.atomic import sync_folder
from medperf_core.site.cache_contents import LEFT_OUT, PARTS, is_passing, stores
from medperf_core.site.cache_place import (
    MARKER,
    NAME,
    USUAL,
    Place,
    cache_folder,
    read_marker,
    read_place,
    write_marker,
    write_place,
)
from medperf_core.site.cache_users import alone, moving
from medperf_core.site.home import Home, remove_tree
from medperf_core.site.kept_steps import STEPS

OWN_FOLDER = "medperf-cache"
"""The cache outside of a home has a folder of its own, of this name."""
MARGIN = 64 << 20
"""Bytes that must be left on the new disk."""
Told = Callable[[bool, int, int], None]
"""Is told whether the copy is read back already, and how many bytes of how many are done."""


@attrs.frozen
class Moved:
    """What was done.

    Attributes:
        old, new: where the cache was and is.
        files, size: how many files, and their bytes.
        steps: how many kept steps were not taken along.
        rest: whether ``old`` is still there: with other files than those of the cache, or such as could not be removed.
    """

    old: Path
    new: Path
    files: int
    size: int
    steps: int = 0
    rest: bool = False


def move_cache(
    home: Home,
    target: Path,
    *,
    lost: bool = False,
    backends: Iterable[str] = (),
    on_bytes: Told = lambda reading, done, total: None,
) -> Moved:
    """Move the cache; without the kept steps, which hold patients' prepared data and are made again when needed.

    Args:
        target: the folder in which the cache gets a folder of its own, ``medperf-cache``; or one of that name. To move
            it back, ``cache`` in the home.
        lost: the present cache is gone for good; begin with an empty one.
        backends: names of backends, which may have folders in the cache.

    Raises:
        UsageError: the folder cannot be taken.
        ConfigurationError: another command uses the cache, or it is not there.
        TransferError: it cannot be written, or the disk is too small; the old cache is as it was.
        VerificationError: the disk gave back something else than was written to it.
    """
    target = _own_folder(home, target)
    with moving(home, lost=lost):
        present = _lost(home) if lost else _present(home)
        old, id = present.folder, present.id
        _check_target(home, None if lost else old, target, id)
        names = [] if lost else _names(old, backends)
        steps = 0 if lost else _count(old / STEPS)
        made = [folder for folder in (target, *target.parents) if not os.path.lexists(folder)]
        try:
            copied = _put(home, old, target, id, names, on_bytes)
            write_place(home.path, Place(target, id, None if lost else old))
        except BaseException as error:
            if _is_said_to_be(home, target):
                raise
            _remove_parts(target, names)
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
            if isinstance(error, OSError):
                raise TransferError(
                    f"The cache could not be copied to {target}: {error.strerror or error}.",
                    hint="Nothing was changed: the cache is where it was.",
                ) from error
            raise
        if not lost:
            _finish(home)
    return Moved(old, target, *copied, steps=steps, rest=not lost and os.path.lexists(old))


def _is_said_to_be(home: Home, folder: Path) -> bool:
    place = read_place(home.path)
    return folder == (place.folder if place is not None else home.path / USUAL)


def finish_move(home: Home) -> None:
    """Remove the old cache of a move that was killed after it had switched, unless another home uses it."""
    place = read_place(home.path)
    if place is None or place.old is None:
        return
    cache_folder(home.path)  # not without the new one
    with alone(place.old) as free:
        if free:
            _finish(home)


def _own_folder(home: Home, target: Path) -> Path:
    # Links are followed only as far as the folder that is to hold it: the cache itself must be no link.
    target = target.expanduser().absolute()
    usual = home.path / USUAL
    if target == usual or Path(os.path.realpath(target)) == _real(home) / USUAL:
        return usual
    target = Path(os.path.realpath(target))
    return target if target.name == OWN_FOLDER else target / OWN_FOLDER


def _present(home: Home) -> Place:
    """Where the cache is, with an id that it knows before anything is copied."""
    finish_move(home)
    place = read_place(home.path)
    if place is not None and place.old is not None:
        raise ConfigurationError(
            f"The cache was moved from {place.old} before, and what is left of it there could not be removed.",
            hint="Another home may be using it, or the disk be read-only. Remove it yourself, then try again.",
        )
    if place is None:
        folder = home.path / USUAL
        marker = read_marker(folder)
        place = Place(folder, marker.id if marker else secrets.token_hex(16))
        write_marker(folder, place.id, whole=True, home=_real(home))
    return place


def _lost(home: Home) -> Place:
    place = read_place(home.path)
    marker = read_marker(place.folder) if place else None
    if place is None or (marker is not None and marker.id == place.id and marker.whole):
        raise UsageError("The cache is there, so it is not lost.", hint="Leave out --lost to move it.")
    return attrs.evolve(place, id=secrets.token_hex(16))  # another one than the cache that may be found again


def _finish(home: Home) -> None:
    """Remove the old cache, which nobody uses; it is remembered as long as any of it is left."""
    place = read_place(home.path)
    if place is None or place.old is None or place.old == place.folder:
        return
    new, old = read_marker(place.folder), read_marker(place.old)
    if place.old == home.path / USUAL or (old is not None and old.id == place.id):
        if old is not None:
            with suppress(OSError):  # nobody begins to use it now
                write_marker(place.old, old.id, whole=False, home=Path(old.home), names=old.names)
        if not _remove_parts(place.old, new.names if new is not None else ()):
            return
        with suppress(OSError):  # it is not empty
            if place.old.is_symlink():
                place.old.unlink()  # the folder that it leads to is somebody's
            else:
                place.old.rmdir()
    write_place(home.path, Place(place.folder, place.id))


def _names(folder: Path, backends: Iterable[str]) -> list[str]:
    """The parts of a cache; what else lies there is somebody's."""
    found = {store.relative_to(folder).parts[0] for store in stores(folder)}
    known = PARTS | found | {name for name in backends if (folder / name).is_dir()}
    return sorted(name for name in known if NAME.fullmatch(name) and os.path.lexists(folder / name))


def _remove_parts(folder: Path, names: Iterable[str]) -> bool:
    """Remove all that makes a folder a cache, but not the folder; whether no part of it is left."""
    parts = {*names, *PARTS}
    for part in parts:
        remove_tree(folder / part)
    if any(os.path.lexists(folder / part) for part in parts):
        return False
    with suppress(OSError):
        (folder / MARKER).unlink(missing_ok=True)
        for entry in folder.iterdir():
            if _is_half_a_marker(entry.name):
                entry.unlink()
    return True


def _real(home: Home) -> Path:
    return Path(os.path.realpath(home.path))


def _count(folder: Path) -> int:
    try:
        return sum(not entry.name.startswith(".") for entry in folder.iterdir())
    except OSError:
        return 0


def _check_target(home: Home, old: Path | None, target: Path, id: str) -> None:
    own, here = _real(home), Path(os.path.realpath(old)) if old else None
    real = Path(os.path.realpath(target))
    if real == here:
        raise UsageError(f"The cache is in {target} already.")
    if target != home.path / USUAL and (real.is_relative_to(own) or own.is_relative_to(real)):
        raise UsageError(
            f"{target} is, holds or lies in the home folder {own}.", hint="Name a folder outside of it, for the cache."
        )
    if here is not None and (real.is_relative_to(here) or here.is_relative_to(real)):
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
    if marker is None and not all(map(_is_half_a_marker, found)):
        raise UsageError(
            f"{target} is not empty, and it is no cache: it has {sorted(found)[0]}.", hint="Name another folder."
        )
    # what an interrupted move of this home left; a copy of the home has the same id
    if marker is not None and (marker.home != str(own) or (marker.whole and marker.id != id)):
        raise UsageError(f"{target} is the cache of another home.", hint="Name another folder.")


def _is_half_a_marker(name: str) -> bool:
    """What a move leaves that was killed while it wrote one."""
    return name.startswith(f".{MARKER}.") and name.endswith(".tmp")


def _put(home: Home, old: Path, target: Path, id: str, names: list[str], on_bytes: Told) -> tuple[int, int]:
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.chmod(0o700)
    before = read_marker(target)
    _remove_parts(target, before.names if before is not None else ())
    taken = [name for name in names if name not in LEFT_OUT]
    write_marker(target, id, whole=False, home=_real(home), names=taken)
    copied = _copy(old, target, taken, on_bytes) if taken else (0, 0)
    write_marker(target, id, whole=True, home=_real(home), names=taken)
    return copied


def _copy(old: Path, new: Path, names: list[str], on_bytes: Told) -> tuple[int, int]:
    entries = list(_entries(old, names))
    total = sum(status.st_size for _, status in entries if stat.S_ISREG(status.st_mode))
    free = shutil.disk_usage(new).free
    if free < total + MARGIN:
        raise TransferError(
            f"The cache has {total} bytes, and the disk of {new} has room for {free} only.",
            hint="Free some of it first (medperf cache gc), or name another disk. Nothing was changed.",
        )
    done = [0, 0]

    def copied(size: int) -> None:
        done[0] += size
        on_bytes(False, done[0], total)

    def checked(size: int) -> None:
        done[1] += size
        on_bytes(True, done[1], total)

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
            hashes[place] = _copy_file(path, place, status, copied)
    os.sync()
    for place, expected in hashes.items():
        if _read_back(place, checked) != expected:
            raise VerificationError(
                f"{place} is not what was written there.", hint="The disk is not to be trusted. Nothing was changed."
            )
    for place, status in reversed(folders):
        place.chmod(stat.S_IMODE(status.st_mode))
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    sync_folder(new)
    return len(hashes), total


def _entries(old: Path, names: list[str]) -> Iterator[tuple[Path, os.stat_result]]:
    def raise_it(error: OSError) -> None:
        raise error

    for part in names:
        yield old / part, (old / part).lstat()
        for folder, subfolders, files in os.walk(old / part, onerror=raise_it):
            for name in (*subfolders, *files):
                path = Path(folder, name)
                if not is_passing(path.relative_to(old)):
                    yield path, path.lstat()


def _link(path: Path, old: Path, new: Path) -> str:
    """The target of the copied link: what lies in the cache is meant in the new one."""
    target = path.readlink()
    for root in (old, Path(os.path.realpath(old))):
        if target.is_relative_to(root):
            return str(new / target.relative_to(root))
    return str(target)


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
