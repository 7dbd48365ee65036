"""Mounts that Docker needs (cgroups) and mounts that it leaves behind."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from .processes import EngineError, run

ROOT = Path("/sys/fs/cgroup")
NEEDED = ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "hugetlb")
"""Version 1 controllers. One that is left to version 2 beside them makes crun refuse to start anything."""


def _table() -> list[tuple[str, str, list[str]]]:
    """Mount point, type, and the file system's options of every mount, oldest first."""
    rows = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split()[4])
        rows.append((point, right.split()[0], right.split()[-1].split(",")))
    return rows


def missing_cgroups() -> list[str]:
    """The version 1 controllers to mount: none where version 2 is in use or they are mounted already."""
    table = _table()
    if any(kind == "cgroup2" and Path(point) == ROOT for point, kind, _ in table):
        return []
    there = {option for _, kind, options in table if kind == "cgroup" for option in options}
    lines = Path("/proc/cgroups").read_text().splitlines()
    enabled = {line.split()[0] for line in lines if not line.startswith("#") and line.split()[3] == "1"}
    return [name for name in NEEDED if name in enabled and name not in there]


def mount_cgroups() -> None:
    """Mount the version 1 controllers that are missing."""
    wanted = missing_cgroups()
    if wanted and not any(Path(point) == ROOT for point, _, _ in _table()):
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", str(ROOT)])
    for name in wanted:
        point = ROOT / name
        point.mkdir(exist_ok=True)
        try:
            run(["mount", "-t", "cgroup", "-o", name, "cgroup", str(point)])
        except EngineError:
            point.rmdir()  # bound to version 2 by somebody else: Docker says what it lacks


def unmount_below(folder: Path) -> None:
    """Unmount everything at or below a folder, the newest first."""
    for point, _, _ in reversed(_table()):
        if Path(point) == folder or folder in Path(point).parents:
            subprocess.run(["umount", point], capture_output=True)
