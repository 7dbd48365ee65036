"""Which processes of this machine belong to whom: who started a task, and whether that program is still there."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

MARKER = "MEDPERF_TASK_ID"
"""Environment variable that marks a task's processes, so that those which left their group are found too."""


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; -1 if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return -1
    return int(stat.rpartition(")")[2].split()[19])


def machine() -> str:
    """Names this machine and its set of process numbers, which containers have for themselves."""
    try:
        space = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:12]


def new_marker() -> str:
    """A marker for one task of this program: unique, and it says whose the task is."""
    return f"{uuid.uuid4().hex}.{os.getpid()}.{start_time(os.getpid())}"


def is_orphan(marker: str) -> bool:
    """Whether the program that made a marker is gone; false for text that is no marker."""
    parts = marker.split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts[1:]):
        return False
    return start_time(int(parts[1])) != int(parts[2])


def marked() -> Iterator[tuple[int, str]]:
    """Process ids and markers of all tasks' processes that this user may look at."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (marker := marker_of(int(entry.name))) is not None:
            yield int(entry.name), marker


def marker_of(pid: int) -> str | None:
    """The marker of a process; None if it has none, has ended, or belongs to somebody else."""
    needle = f"{MARKER}=".encode()
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = next((variable for variable in variables if variable.startswith(needle)), None)
    return None if found is None else found.removeprefix(needle).decode("utf-8", "replace")
