"""One container from its start to its end: its output, its limits, and how it ended."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs

from medperf_core.errors import CancelledError, ExecutionError, MedperfError
from medperf_core.plugin import BackendContext, Limit
from medperf_core.plugin.processes import start_time
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_core.plugin.watchdog import Watchdog, descendants, pause_after
from medperf_docker.connect import TIMEOUT, Client, engine_error, one_line, understood
from medperf_docker.container import Container
from medperf_docker.processes import first_process
from medperf_docker.stream import cut

POLL_SECONDS = 0.05
MEASURE_SECONDS = 0.5
ASK_SECONDS = 2.0
"""How often the engine is asked whether the container still runs: it may forget to tell that it ended."""
FIND_SECONDS = 10.0
"""How long a container's first process may be nowhere to be found."""
GRACE_SECONDS = 10.0
_INIT_FAILED = re.compile(r"\[FATAL tini|ERROR \(catatonit")
_OVER = ("exited", "stopped", "dead", "removing")


@attrs.frozen
class Ended:
    """How a container ended; see ``TaskOutcome`` for the fields."""

    exit_code: int
    seconds: float
    timed_out: bool
    out_of_memory: bool
    too_many_processes: bool
    peak_memory: int | None


class Watch:
    """A thread for the container's output, one that waits for its end, and the caller's, which decides.

    Args:
        client: for short questions.
        patient: for the answers that come when the container ends.
        plan: a container that was made and not started.
        time_limit: seconds in total; None for no limit.
        podman: whether the engine is Podman, which does not tell that memory ran out.
    """

    def __init__(
        self,
        client: Client,
        patient: Client,
        context: BackendContext,
        plan: Container,
        log: TaskLogWriter,
        time_limit: float | None,
        podman: bool,
    ) -> None:
        self._client, self._patient, self._context, self._plan, self._log = client, patient, context, plan, log
        self._time_limit, self._podman = time_limit, podman
        self._ended, self._attached = threading.Event(), threading.Event()
        self._answers: list[Any] = []
        self._code: int | None = None
        self._problems: list[BaseException] = []
        self._peak = 0
        self._first: int | None = None
        self._begun = -1  # tells it from another process that has its number once the container has ended
        limits = plan.watched
        self._watchdog = Watchdog(self._members, memory=limits.memory, processes=limits.processes, cpus=limits.cpus)

    def run(self, doing: str) -> Ended:
        """Start it and see it to its end.

        Raises:
            ExecutionError: the engine could not run it.
            CancelledError: the context's cancel token was set.
        """
        name = self._plan.name
        self._patient.hooks["response"].append(lambda answer, **_: self._answers.append(answer))
        threads = [self._thread(self._pump, doing)]
        started = time.monotonic()
        broken: Limit | None = None
        try:
            if self._until_attached():
                started = time.monotonic()
                self._client.start(name)
                self._thread(self._wait, doing)
                broken = self._until_end(started)
            seconds = time.monotonic() - started
            for thread in threads:
                thread.join(GRACE_SECONDS)  # what it wrote last is still on its way
        finally:
            self._watchdog.release()
            cut(self._answers)
            if self._attached.is_set():  # else it still waits for an engine that is silent
                for thread in threads:
                    thread.join(GRACE_SECONDS)
        self._raise_problems(doing)
        state = self._state()
        code = self._code if self._code is not None else int(state["ExitCode"])
        self._check_start(state, code)
        killed = code == 137 and self._plan.memory is not None and self._podman
        by_engine = code != 0 and broken is None and (bool(state.get("OOMKilled")) or killed)
        return Ended(
            code,
            seconds,
            timed_out=broken is Limit.TIME,
            out_of_memory=broken is Limit.MEMORY or by_engine,
            too_many_processes=broken is Limit.PROCESSES,
            peak_memory=self._watchdog.peak_memory or self._peak or None,
        )

    def _state(self) -> Any:
        return self._client.inspect_container(self._plan.name)["State"]

    def _thread(self, work: Callable[[], None], doing: str) -> threading.Thread:
        def guarded() -> None:
            try:
                with understood(doing):
                    work()
            except Exception as error:  # told by the deciding thread
                self._problems.append(error)
                self._attached.set()
                self._ended.set()

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _pump(self) -> None:
        output = self._patient.attach(self._plan.name, stream=True)
        self._attached.set()
        for data in output:
            self._log.feed(data)

    def _wait(self) -> None:
        self._code = int(self._patient.wait(self._plan.name)["StatusCode"])
        self._ended.set()

    def _until_attached(self) -> bool:
        """Wait until the engine sends the output; false if that went wrong."""
        deadline = time.monotonic() + TIMEOUT
        while not self._attached.wait(POLL_SECONDS):
            self._raise_if_cancelled()
            if time.monotonic() > deadline:
                raise ExecutionError(f"Docker did not send the output of {self._plan.name} within {TIMEOUT:g} seconds.")
        return not self._problems

    def _raise_if_cancelled(self) -> None:
        if self._context.cancel.cancelled:
            raise CancelledError(f"The task in the container {self._plan.name} was stopped.")

    def _until_end(self, started: float) -> Limit | None:
        """Wait for the end; the limit that made it, if one did."""
        watches = _Every(0.0, started)
        measures, asks = _Every(MEASURE_SECONDS, started - MEASURE_SECONDS + 0.2), _Every(ASK_SECONDS, started)
        while not self._ended.wait(POLL_SECONDS):
            self._raise_if_cancelled()
            broken: Limit | None = None
            if self._plan.watched and watches.due():
                broken = self._look(started)
                watches.pause = pause_after(watches.passed())
            if self._time_limit is not None and time.monotonic() - started > self._time_limit:
                broken = Limit.TIME
            if broken is not None:
                self._kill()
                return broken
            if self._plan.memory is not None and not self._plan.watched.memory and measures.due():
                self._measure()
            if asks.due() and self._is_over():
                return None
        return None

    def _kill(self) -> None:
        self._watchdog.release()
        # all of a container ends with its first process, also while the engine is slow
        if self._first is not None and start_time(self._first) == self._begun:
            with suppress(OSError):
                os.kill(self._first, signal.SIGKILL)
            if self._wait_until_over(GRACE_SECONDS / 5):
                return
        with suppress(Exception):  # it may be ending by itself right now
            self._client.kill(self._plan.name)
        self._wait_until_over(GRACE_SECONDS)

    def _wait_until_over(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._ended.wait(POLL_SECONDS * 4):
            if self._is_over():
                return True
            if time.monotonic() > deadline:
                return False
        return True

    def _is_over(self) -> bool:
        """Whether the engine says that the container ended, although nobody was told."""
        with suppress(Exception):  # whatever is wrong shows when its end is awaited
            if str(self._state()["Status"]) in _OVER:
                self._ended.wait(POLL_SECONDS * 4)
                return True
        return False

    def _look(self, started: float) -> Limit | None:
        if self._first is None:
            found = self._client.inspect_container(self._plan.name)
            self._first = first_process(str(found["Id"]), int(found["State"]["Pid"]))
            if self._first is not None:
                self._begun = start_time(self._first)
            elif found["State"]["Status"] not in _OVER:
                self._give_up_search(started)
        return self._watchdog.check() if self._first is not None else None

    def _give_up_search(self, started: float) -> None:
        """Raises if the container's processes have been looked for in vain for too long."""
        if time.monotonic() - started > FIND_SECONDS:
            raise ExecutionError(
                f"The processes of the container {self._plan.name} were not found on this machine, so that its limits "
                "could not be held; it was ended.",
                hint="Use a daemon that holds limits itself (rootful, or rootless with control groups v2).",
            )

    def _members(self) -> set[int]:
        return descendants(self._first, self._begun) if self._first is not None else set()

    def _measure(self) -> None:
        with suppress(Exception):  # figures are a courtesy: the container may have ended, the engine may have none
            memory = self._client.stats(self._plan.name, stream=False, one_shot=True)["memory_stats"]
            details = memory.get("stats") or {}
            cache = details.get("total_inactive_file", details.get("inactive_file", 0))
            self._peak = max(self._peak, int(memory["usage"]) - int(cache))

    def _raise_problems(self, doing: str) -> None:
        for problem in self._problems:
            if isinstance(problem, MedperfError):
                raise problem
            if isinstance(problem, OSError) and problem.filename is None and problem.errno is not None:
                raise ExecutionError(
                    f"The output of {self._plan.name} could not be kept: {problem.strerror}.",
                    hint="Make room on the disk that holds the logs.",
                ) from problem
            raise engine_error(doing, str(getattr(problem, "explanation", "") or problem)) from problem

    def _check_start(self, state: Any, code: int) -> None:
        """Raises if the engine or the first process could not start the task's program."""
        words = one_line(str(state.get("Error") or ""))
        first = next(iter(self._log.tail), "")
        if not words and code in (126, 127) and _INIT_FAILED.search(first):
            words = f"its program could not be started: {first}: failed to exec"
        if words and code != 0:
            raise engine_error(f"start the task in {self._plan.name}", words)


@attrs.define
class _Every:
    """Says when something is due that is done again and again, with a pause in between."""

    pause: float
    last: float

    def due(self) -> bool:
        if time.monotonic() - self.last < self.pause:
            return False
        self.last = time.monotonic()
        return True

    def passed(self) -> float:
        return time.monotonic() - self.last
