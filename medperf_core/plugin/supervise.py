"""Run a program in its own process group and watch it: output, total time, memory, cancellation."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from medperf_core.errors import CancelledError, ExecutionError
from medperf_core.plugin.context import CancelToken
from medperf_core.plugin.isolation import Limit
from medperf_core.plugin.processes import MARKER, is_orphan, marked, marker_of, start_time
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_core.plugin.watchdog import Watchdog, pause_after

POLL_SECONDS = 0.05
GRACE_SECONDS = 3.0
END_SECONDS = 0.005
"""Between two looks at what is ending; it is about the time that a process takes to be taken down."""


@attrs.frozen
class Supervised:
    """How a program ended. ``exit_code`` is 128 + the signal's number if a signal ended it."""

    exit_code: int
    seconds: float
    timed_out: bool
    out_of_memory: bool
    too_many_processes: bool
    peak_memory: int | None


def supervise(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: TaskLogWriter,
    cancel: CancelToken,
    marker: str,
    time_limit: float | None = None,
    memory: int | None = None,
    processes: int | None = None,
    cpus: float | None = None,
) -> Supervised:
    """Run ``command`` to its end, without standard input; nothing of it is left when this returns or raises.

    Args:
        command: program and arguments; no shell.
        environment: all of its variables; ``MARKER`` is added.
        log: takes standard output and standard error.
        marker: value of ``MARKER`` from ``processes.new_marker``.
        time_limit: seconds in total.
        memory: bytes of resident memory of all its processes together, polled.
        processes: number of its processes, polled.
        cpus: processors that they use on average; held by stopping them now and then.

    Raises:
        ExecutionError: it could not be started.
        CancelledError: ``cancel`` was set.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env={**environment, MARKER: marker},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ExecutionError(f"The program {command[0]} could not be started in {cwd}: {error.strerror}.") from error
    reader = threading.Thread(target=_pump, args=(process, log), daemon=True)
    reader.start()
    timed_out = False
    broken: Limit | None = None
    begun = start_time(process.pid)
    watchdog = Watchdog(
        lambda: group_members(process.pid, marker, begun), memory=memory, processes=processes, cpus=cpus
    )
    pause = POLL_SECONDS
    try:
        while process.poll() is None and not timed_out and broken is None:
            _pause(process, reader, pause)
            if cancel.cancelled:
                raise CancelledError(f"The task's program {command[0]} was stopped.")
            if process.poll() is not None:
                break
            looked = time.monotonic()
            broken = watchdog.check()
            pause = max(POLL_SECONDS, pause_after(time.monotonic() - looked))
            timed_out = time_limit is not None and time.monotonic() - started > time_limit
    finally:
        watchdog.release()
        _end(process, marker, begun)
        reader.join(GRACE_SECONDS)
    code = process.returncode
    return Supervised(
        exit_code=code if code >= 0 else 128 - code,
        seconds=time.monotonic() - started,
        timed_out=timed_out,
        out_of_memory=broken is Limit.MEMORY,
        too_many_processes=broken is Limit.PROCESSES,
        peak_memory=watchdog.peak_memory,
    )


def _pause(process: subprocess.Popen[bytes], reader: threading.Thread, seconds: float) -> None:
    """Wait a moment, or less: for the end of the output, which nearly always comes with the program's own end."""
    reader.join(seconds)
    if not reader.is_alive():
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def _pump(process: subprocess.Popen[bytes], log: TaskLogWriter) -> None:
    while process.stdout and (data := os.read(process.stdout.fileno(), 65536)):
        log.feed(data)


def group_members(group: int, marker: str, begun: int = -1) -> set[int]:
    """Process ids of the task: of its process group and session, those that carry its marker, and all descendants of
    these.

    Args:
        group: process id of its first process.
        begun: when that started, as ``processes.start_time`` tells it; -1 if nobody knows.
    """
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            with Path(entry.path, "stat").open("rb", buffering=0) as stream:
                fields = stream.read(4096).rpartition(b")")[2].split()
            parent, its_group, session, started = (int(fields[index]) for index in (1, 2, 3, 19))
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(pid)
        # what is older than the task is none of it, and need not be read further
        if group in (its_group, session) or (started >= begun and marker_of(pid) == marker):
            found.add(pid)
    waiting = [group, *found]
    while waiting:
        below = set(children.get(waiting.pop(), ())) - found
        found |= below
        waiting += below
    return found


def end_orphans() -> int:
    """End what is left of tasks whose program was killed; how many processes that were."""
    left = [pid for pid, mark in marked() if is_orphan(mark) and _alive(pid)]
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue  # it ended meanwhile, or is not ours
    return len(left)


def _end(process: subprocess.Popen[bytes], marker: str, begun: int) -> None:
    """Stop whatever is left of the task: politely first, then for good, until nothing is found any more."""
    killing = time.monotonic() + GRACE_SECONDS
    giving_up = killing + GRACE_SECONDS
    while (now := time.monotonic()) < giving_up:
        process.poll()
        left = [pid for pid in group_members(process.pid, marker, begun) if _alive(pid)]
        if not left:
            break
        for pid in left:
            with suppress(OSError):  # it ended meanwhile, or is somebody else's; the others end in any case
                os.kill(pid, signal.SIGTERM if now < killing else signal.SIGKILL)
        time.sleep(END_SECONDS)
    process.wait()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
