"""Files and folders on this machine: what tells that a file is unchanged, room on disk, removing whole trees."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from medperf_core.errors import ExecutionError


@attrs.frozen
class Fingerprint:
    """What the file system says of a file: if nothing of it changed, its bytes did not change.

    ``ctime_ns`` is set by the system at every change of the file or of its other times and cannot be set by hand.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """The fingerprint of a file, behind links; OSError if there is none."""
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, also where an image's own folders let nobody in. Never follows a link."""

    def allow(function: Callable[..., Any], name: str, error: Any) -> None:
        parent = Path(name).parent
        try:
            for each in (parent, Path(name)):
                if stat.S_ISDIR(each.lstat().st_mode):
                    each.chmod(0o700)
            if function in (os.open, os.scandir, os.listdir):
                remove_tree(Path(name))
            else:
                function(name)
        except OSError:
            return  # what is left is seen below

    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, onerror=allow)
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)


def free(folder: Path) -> int:
    """Bytes that this user can still write on the file system of a folder."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def require_room(what: str, needs: dict[Path, int]) -> None:
    """Refuse work for which the disk has no room.

    Args:
        what: such as "convert the image X", to follow "There is no room to".
        needs: bytes needed below each folder; those on one file system are added up.

    Raises:
        ExecutionError: one file system has less.
    """
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, need in needs.items():
        device = folder.stat().st_dev
        first, sum_so_far = by_device.get(device, (folder, 0))
        by_device[device] = first, sum_so_far + need
    for folder, need in by_device.values():
        room = free(folder)
        if room < need:
            raise no_room(what, folder, need, room)


def no_room(what: str, folder: Path, need: int, room: int) -> ExecutionError:
    """The error for a full disk."""
    return ExecutionError(
        f"There is no room to {what}: about {size(need)} are needed on the disk of {folder}, {size(room)} are free.",
        hint="Free some there, or move medperf's home to a larger disk (MEDPERF_HOME).",
    )


def size(count: int) -> str:
    """A number of bytes for people."""
    amount = float(max(count, 0))
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
