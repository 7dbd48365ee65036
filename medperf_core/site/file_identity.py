"""Which file or folder it is, whatever it is called now."""

from __future__ import annotations

import os
import struct
import sys

import attrs

_STATX_BYTES = 256
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME = -100, 0x100, 0x800
_MASK, _BORN = struct.Struct("=I"), struct.Struct("=qI")
_BORN_AT = 80
"""Where ``stx_btime`` stands in ``struct statx`` (statx(2))."""


@attrs.frozen
class FileIdentity:
    """A file or folder on a disk.

    Attributes:
        device: number of its file system, which may be another one after a restart.
        inode: its number there, which another file may get once it is deleted.
        born: when it was made, in nanoseconds since the epoch; None where the file system does not say.
    """

    device: int
    inode: int
    born: int | None = None

    def is_that(self, other: FileIdentity) -> bool:
        """Whether both are of one file. Where it is known, the time of its making tells it better than the device."""
        if self.inode != other.inode:
            return False
        if self.born is None or other.born is None:
            return self.device == other.device
        return self.born == other.born


def identity_of(path: str) -> FileIdentity | None:
    """That of a path, whose last part is not followed if it is a link; None if nothing is there."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return FileIdentity(status.st_dev, status.st_ino, _born(path, status))


def _born(path: str, status: os.stat_result) -> int | None:
    if sys.platform != "linux":
        seconds = getattr(status, "st_birthtime", None)
        return None if seconds is None else round(seconds * 1e9)
    import ctypes  # Python's own stat does not ask for the time on Linux

    try:
        statx = ctypes.CDLL(None).statx
    except (AttributeError, OSError):  # a C library from before 2018
        return None
    found = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, found):
        return None
    if not _MASK.unpack_from(found)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = _BORN.unpack_from(found, _BORN_AT)
    return int(seconds * 1_000_000_000 + nanoseconds) or None  # 0: what was made together with the file system
