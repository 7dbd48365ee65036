"""What engines leave when they, or this program, are killed: processes, file systems of images, control groups."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

from medperf_core.plugin import BackendContext
from medperf_core.plugin.processes import is_orphan, start_time
from medperf_singularity.guard import PID_FILE

ENGINE_PROCESSES = 4
"""Processes of a container that are the engine's: the starter, the first process inside, and the file system's."""
OWNER_FILE = "owner"
"""In the folder of a run: the marker of the program that it belongs to."""
_SAME_SECONDS = 10.0
_FILE_SYSTEMS = ("squashfuse", "fuse-overlayfs", "fuse2fs")
_PLACE = "/mnt/session"
"""In the arguments of an engine's file systems: where it puts a container together."""


def clean(context: BackendContext) -> None:
    """End what is left of tasks whose program was killed, and remove their folders and control groups."""
    for folder in (context.temp_dir / "singularity").glob("run-*"):
        with suppress(OSError, ValueError):
            if is_orphan((folder / OWNER_FILE).read_text()):
                _end_session(folder / PID_FILE)
                shutil.rmtree(folder, ignore_errors=True)
    for pid in forgotten():
        with suppress(OSError):
            os.kill(pid, SIGKILL)
    remove_control_groups()


def _end_session(file: Path) -> None:
    """Kill the engine that wrote this file at its start, and all of its session; not who has its number by now."""
    session = int(file.read_text())
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    begun = boot + start_time(session) / os.sysconf("SC_CLK_TCK")
    if abs(begun - file.stat().st_mtime) > _SAME_SECONDS:
        return
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended meanwhile
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                os.kill(int(entry.name), SIGKILL)


def forgotten() -> Iterator[int]:
    """Processes of this account that serve an image's file system to nobody.

    Such a process shares its mount namespace with the container that it serves; alone in one, it has none.
    """
    spaces: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended meanwhile, or is somebody else's
                if _state(entry) != "Z":
                    spaces.setdefault(str((entry / "ns/mnt").readlink()), []).append(int(entry.name))
    for members in spaces.values():
        with suppress(OSError):
            if all(_serves(Path("/proc", str(pid))) for pid in members):
                yield from (pid for pid in members if _account(Path("/proc", str(pid))) == os.geteuid())


def _state(entry: Path) -> str:
    return (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]


def _account(entry: Path) -> int:
    """Who a process really is; its files belong to root where it may not be looked into."""
    lines = (entry / "status").read_text("utf-8", "replace").splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])


def _serves(entry: Path) -> bool:
    words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    name = Path(words[0]).name
    return name.startswith(_FILE_SYSTEMS) and any(_PLACE in word for word in words)


def remove_control_groups(root: Path = Path("/sys/fs/cgroup")) -> None:
    """Remove the empty control groups of containers that are gone; the system keeps those that are in use."""
    if os.geteuid() != 0:
        return
    for name in ("apptainer", "singularity"):
        for group in (*root.glob(f"*/{name}/*"), *root.glob(f"{name}/*")):
            if group.name.isdigit() and group.is_dir() and not _runs(Path("/proc", group.name)):
                with suppress(OSError):
                    group.rmdir()


def _runs(entry: Path) -> bool:
    try:
        return _state(entry) != "Z"
    except (OSError, IndexError):
        return False
