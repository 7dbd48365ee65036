"""A container's processes as processes of this machine, where a watchdog can look at them."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ID = re.compile(r"[0-9a-f]{64}")
_PEER = struct.Struct("3i")
SPARE = 64
"""Processes that engines start for a container besides the task's own."""


def is_here(path: str | None, info: Mapping[str, Any], *, rootless: bool) -> bool:
    """Whether tasks on a daemon are processes of this machine that this user may look at and stop.

    That is as far as it can be told before there is one. Not those of a virtual machine, whose socket some other
    program forwards, not those of a daemon outside the container that this program runs in, and not those on another
    user's rootless daemon, as they run as that user.

    Args:
        path: the daemon's Unix socket; None if it has another kind of address.
        info: what the daemon tells of its machine.
        rootless: whether tasks run as the daemon's user.
    """
    this = os.uname()
    if path is None or (info.get("KernelVersion"), info.get("Name")) != (this.release, this.nodename):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.settimeout(5)
            opened.connect(path)
            peer, owner, _ = _PEER.unpack(opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    except OSError:
        return False
    # 0 is a process that cannot be seen from here
    return bool(peer > 0 and (os.geteuid() in (0, owner) or not rootless))


def first_process(container: str, told: int, proc: Path = Path("/proc")) -> int | None:
    """The first process of a container, by its number on this machine; None if it is not to be found.

    It is number 1 of its own set of processes, has the number that the daemon told in the set above, which is the
    daemon's own, and sees files that the engine made for this container (its host name, say).

    Args:
        container: the container's full ID.
        told: the number that the daemon told.
        proc: for tests.
    """
    if told <= 0 or not _ID.fullmatch(container):
        return None
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = re.search(r"^NSpid:(.*)$", (entry / "status").read_text(errors="replace"), re.MULTILINE)
            fits = words is not None and words[1].split()[-2:] == [str(told), "1"]
            if fits and container in (entry / "mountinfo").read_text(errors="replace"):
                return int(entry.name)
        except OSError:
            continue  # it ended meanwhile, or is hidden from this user
    return None


def threads_of(uid: int, proc: Path = Path("/proc")) -> int:
    """How many processes and threads an account has: what a resource limit of processes counts."""
    found = 0
    for entry in proc.iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                found += len(list((entry / "task").iterdir()))
        except OSError:
            continue  # it ended meanwhile
    return found
