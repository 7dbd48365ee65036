"""Run a program in its own process group and watch it: output, total time, memory, cancellation."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from medperf_core.errors import CancelledError, ExecutionError
from medperf_core.plugin.context import CancelToken
from medperf_core.plugin.processes import MARKER, is_orphan, marked
from medperf_core.plugin.tasklog import TaskLogWriter

POLL_SECONDS = 0.05
GRACE_SECONDS = 3.0


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
    timed_out = out_of_memory = too_many_processes = False
    peak = 0
    try:
        while process.poll() is None:
            if cancel.wait(POLL_SECONDS):
                raise CancelledError(f"The task's program {command[0]} was stopped.")
            members = group_members(process.pid, marker)
            used = sum(_resident(pid) for pid in members)
            peak = max(peak, used)
            timed_out = time_limit is not None and time.monotonic() - started > time_limit
            out_of_memory = memory is not None and used > memory
            too_many_processes = processes is not None and len(members) > processes
            if timed_out or out_of_memory or too_many_processes:
                break
    finally:
        _end(process, marker)
        reader.join(GRACE_SECONDS)
    code = process.returncode
    return Supervised(
        exit_code=code if code >= 0 else 128 - code,
        seconds=time.monotonic() - started,
        timed_out=timed_out,
        out_of_memory=out_of_memory,
        too_many_processes=too_many_processes,
        peak_memory=peak or None,
    )


def _pump(process: subprocess.Popen[bytes], log: TaskLogWriter) -> None:
    while process.stdout and (data := os.read(process.stdout.fileno(), 65536)):
        log.feed(data)


def group_members(group: int, marker: str) -> set[int]:
    """Process ids of the task: those of its process group, and those that carry its marker."""
    found = {pid for pid, mark in marked() if mark == marker}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == group:
                found.add(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
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


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _end(process: subprocess.Popen[bytes], marker: str) -> None:
    """Stop whatever is left of the task: politely first, then for good, until nothing is found any more."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            process.poll()
            left = [pid for pid in group_members(process.pid, marker) if _alive(pid)]
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            time.sleep(0.02)
    process.wait()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
