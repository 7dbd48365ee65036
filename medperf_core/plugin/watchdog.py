"""Holds the limits of a task that no engine holds, by looking at its processes again and again.

Whoever runs a task makes one ``Watchdog`` for it and calls ``check`` about twenty times a second::

    with Watchdog(lambda: descendants(pid), memory=8 << 30, cpus=4) as watchdog:
        while task_runs():
            if broken := watchdog.check():
                ...  # end the task, and say which limit it broke

Figures are those of the kernel's ``/proc/PID/stat`` (the manual page proc(5) numbers its fields).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs

from medperf_core.plugin.isolation import Limit

BURST_SECONDS = 0.2
"""How long a task that rested may use more processors than its limit."""
LONGEST_PAUSE = 0.25
"""Seconds between two looks at most."""


@attrs.frozen
class Process:
    """A process at one moment.

    Attributes:
        parent: process id of its parent.
        state: one letter; ``T`` is stopped, ``Z`` ended but not yet collected.
        own: processor seconds that it has used.
        collected: processor seconds of those of its children that ended and that it waited for.
        started: clock ticks since boot; with the process id it names a process for good.
        resident: bytes of memory.
    """

    parent: int
    state: str
    own: float
    collected: float
    started: int
    resident: int


def process(pid: int) -> Process | None:
    """What the kernel says of a process; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
        fields = text.rpartition(b")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        return Process(
            parent=int(fields[1]),
            state=fields[0].decode(),
            own=(int(fields[11]) + int(fields[12])) / ticks,
            collected=(int(fields[13]) + int(fields[14])) / ticks,
            started=int(fields[19]),
            resident=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        )
    except (OSError, IndexError, ValueError):
        return None


def pause_after(seconds: float) -> float:
    """How long to wait after a look that took so long.

    On a machine with thousands of processes a look costs tens of milliseconds, so most of the time is left to others;
    but the next look must not be far either.
    """
    return min(5 * seconds, LONGEST_PAUSE)


def descendants(root: int, started: int | None = None) -> set[int]:
    """Ids of a process and of all that descend from it; none if it has ended.

    Of the first process of a container, these are all of the container's: an orphan gets that one as its parent.

    Args:
        root: its id.
        started: when it started, in clock ticks since boot, if another process may have its id by now.
    """
    first = process(root)
    if first is None or started not in (None, first.started):
        return set()
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := process(int(entry.name))):
            children.setdefault(found.parent, []).append(int(entry.name))
    members, waiting = set[int](), [root]
    while waiting:
        pid = waiting.pop()
        if pid not in members:
            members.add(pid)
            waiting += children.get(pid, ())
    return members


class Watchdog:
    """Measures all processes of one task together, tells which limit is broken, and holds the limit of processors.

    That limit ends nothing: whenever the task has used more than its share, its processes are stopped until the
    average is right again. What a process used that ended between two checks is known only if its parent waited
    for it. Use it as a context manager, or call ``release`` before the task's processes are asked to end: a stopped
    one would not hear it.

    Args:
        members: the ids of the task's processes as they are now.
        memory: bytes of resident memory of all of them together. What several of them share is counted once, where
            the kernel tells. Files that they keep in a file system in memory are not counted.
        processes: their number.
        cpus: processors that they use on average, as a number that may have a fraction; not 0.
    """

    def __init__(
        self,
        members: Callable[[], Iterable[int]],
        *,
        memory: int | None = None,
        processes: int | None = None,
        cpus: float | None = None,
    ) -> None:
        self._members, self._memory, self._processes, self._cpus = members, memory, processes, cpus
        self._peak = 0
        self._before: Mapping[int, Process] | None = None
        self._at = time.monotonic()
        self._allowance = (cpus or 0.0) * BURST_SECONDS
        self._stopped: dict[int, int] = {}

    @property
    def peak_memory(self) -> int | None:
        """The most resident memory that a check saw, in bytes; None if none saw any.

        What processes share is counted for each of them, as long as the sum is below the limit.
        """
        return self._peak or None

    def check(self) -> Limit | None:
        """Look once; the limit that is broken: ``MEMORY``, ``PROCESSES``, or None."""
        now = {pid: found for pid in self._members() if (found := process(pid))}
        used = sum(each.resident for each in now.values())
        if self._memory is not None and used > self._memory and len(now) > 1:
            used = sum(_proportional(pid, each.resident) for pid, each in now.items())
        self._peak = max(self._peak, used)
        if self._memory is not None and used > self._memory:
            return Limit.MEMORY
        if self._processes is not None and len(now) > self._processes:
            return Limit.PROCESSES
        if self._cpus is not None:
            self._hold_cpus(now, self._cpus)
        return None

    def release(self) -> None:
        """Let everything that was stopped go on."""
        for pid, started in self._stopped.items():
            found = process(pid)
            if found and found.started == started:
                _send(pid, signal.SIGCONT)
        self._stopped.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _hold_cpus(self, now: Mapping[int, Process], cpus: float) -> None:
        before, self._before = self._before if self._before is not None else now, now
        at, self._at = self._at, time.monotonic()
        earned = (self._at - at) * cpus
        self._allowance = min(self._allowance + earned - _used(before, now), cpus * BURST_SECONDS)
        if self._allowance > 0:
            self.release()
            return
        for pid, found in now.items():
            # one that is stopped already, but not by this, is the task's own affair
            if found.state not in "TtZX" and _send(pid, signal.SIGSTOP):
                self._stopped[pid] = found.started


def _used(before: Mapping[int, Process], now: Mapping[int, Process]) -> float:
    """Processor seconds used between two checks.

    What a process used that ended meanwhile is with its parent now, in one sum with what was counted for it before.
    """
    same = {pid: before[pid] for pid, found in now.items() if pid in before and before[pid].started == found.started}
    own = collected = 0.0
    for pid, found in now.items():
        own += found.own - (same[pid].own if pid in same else 0.0)
        collected += found.collected - (same[pid].collected if pid in same else 0.0)
    counted = sum(old.own + old.collected for pid, old in before.items() if pid not in same)
    return own + max(collected - counted, 0.0)


def _proportional(pid: int, otherwise: int) -> int:
    """Bytes of a process's memory, with what it shares divided among those that share it (proportional set size)."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return min(int(line.split()[1]) * 1024, otherwise)
    return otherwise


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except OSError:  # it ended meanwhile, or is somebody else's
        return False
    return True
