"""What is mounted where, so that one folder that has two paths by a bind mount is known as one.

The format is that of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Self

import attrs

FILE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


@attrs.frozen
class Place:
    """Where a path is on its disk.

    Attributes:
        device: the file system, as ``major:minor``, and what was mounted if it is on no disk of this machine: several
            folders of one server may share a number.
        path: from the root of the file system itself, not from where it is mounted.
    """

    device: str
    path: str

    def overlaps(self, other: Place) -> bool:
        """Whether one of both is, holds or lies in the other."""
        return self.device == other.device and (covers(self.path, other.path) or covers(other.path, self.path))


@attrs.frozen
class _Mount:
    point: str
    place: Place


@attrs.frozen
class Mounts:
    """The mounts that this process sees, in the order in which they were made."""

    _mounts: tuple[_Mount, ...] = ()

    @classmethod
    def read(cls) -> Self:
        """Those of now; none on a system that does not list them like Linux."""
        try:
            text = FILE.read_bytes()
        except OSError:
            return cls()
        return cls.parse(text)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Those that a text lists; lines of another form are left out."""
        found = []
        for line in text.splitlines():
            words = line.split(b" ")
            if b"-" in words[6:] and len(words) > (dash := words.index(b"-", 6)) + 2:
                device, root, point, source = (_decoded(words[number]) for number in (2, 3, 4, dash + 2))
                found.append(_Mount(point, Place(f"{device} {source}" if device.startswith("0:") else device, root)))
        return cls(tuple(found))

    def places(self, path: str) -> list[Place]:
        """Where a real path is, and where all is that is mounted below it."""
        above = [mount for mount in self._mounts if covers(mount.point, path)]
        below = [mount.place for mount in self._mounts if mount.point != path and covers(path, mount.point)]
        if not above:
            return below
        # of mounts on the same folder, the last one is seen
        nearest = max(reversed(above), key=lambda mount: len(mount.point))
        inside = os.path.relpath(path, nearest.point)
        place = os.path.normpath(f"{nearest.place.path.rstrip('/')}/{inside}")
        return [Place(nearest.place.device, place), *below]


def covers(folder: str, path: str) -> bool:
    """Whether an absolute, normal path is a folder or lies in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _decoded(word: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 255]), word))
