"""Where a bundle is while it is written, and how it gets its name: by one process at a time, over nobody's file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medperf_core.errors import TransferError, UsageError
from medperf_core.site.atomic import sync_folder

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def part_of(output: Path) -> Path:
    """Where a bundle is while it is not finished."""
    return output.with_name(f"{output.name}.part")


@contextmanager
def unfinished(output: Path) -> Iterator[BinaryIO]:
    """The part file of a bundle, for one process at a time; made if it is not there.

    Raises:
        UsageError: the bundle is there already, another command makes it, or what is there of it is not one's own.
        TransferError: it cannot be written.
    """
    part = part_of(output)
    descriptor = None
    while descriptor is None:
        _check_new(output)
        descriptor = _opened(output, part)
    with os.fdopen(descriptor, "r+b") as stream:
        try:
            yield stream
        finally:
            if os.fstat(descriptor).st_size == 0:  # nothing to go on with
                part.unlink(missing_ok=True)


def _check_new(output: Path) -> None:
    if not os.path.lexists(output):
        return
    part = part_of(output)
    if not output.is_symlink() and part.exists() and output.samefile(part):  # finished, and killed then
        part.unlink()
    raise UsageError(f"{output} is there already; nothing was overwritten.", hint="Name another file.")


def _opened(output: Path, part: Path) -> int | None:
    """A descriptor of the part file, which this process alone has; None if it is to be opened again, because it was
    given its name or removed meanwhile."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            descriptor, made = os.open(part, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            descriptor, made = os.open(part, flags), False
    except FileNotFoundError:
        if part.parent.is_dir():
            return None
        raise TransferError(f"{output} cannot be written: its folder is not there.") from None
    except OSError as error:
        raise TransferError(f"{output} cannot be written: {error.strerror}.", hint="Name another place.") from error
    try:
        found = os.fstat(descriptor)
        own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink <= 1
        if not made and not own:
            raise UsageError(
                f"{part} is there, and it is not a file of this user alone; nothing was written to it.",
                hint="Remove it, or name another output file.",
            )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"Another command is writing {output}.", hint="Wait for it, or name another file."
            ) from None
        if _is_named(descriptor, part) and not os.path.lexists(output):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def give_name(output: Path) -> None:
    """Give a bundle its name, without taking it from a file that appeared meanwhile, as a rename would.

    Raises:
        UsageError: a file appeared; the part file stays.
        OSError: it cannot be done.
    """
    part = part_of(output)
    try:
        try:
            os.link(part, output)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            part.unlink()
            sync_folder(output.parent)
            return
        os.close(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))  # such as on a stick
    except FileExistsError:
        raise UsageError(
            f"{output} appeared meanwhile; it was not overwritten. The bundle is in {part}.",
            hint=f"Move {output} away and give the same command again.",
        ) from None
    part.rename(output)
    sync_folder(output.parent)
