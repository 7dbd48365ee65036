"""A container's life: made, watched to its end or stopped, and removed in every case."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs

from medperf_core.errors import CancelledError, ExecutionError, MedperfError
from medperf_core.plugin import BackendContext, Notice
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_docker.connect import Client, Connection, engine_error, one_line
from medperf_docker.container import Container, create_arguments
from medperf_docker.stream import cut

POLL_SECONDS = 0.05
MEASURE_SECONDS = 0.5
GRACE_SECONDS = 10.0
_INIT_FAILED = re.compile(r"\[FATAL tini|ERROR \(catatonit")
_NO_INIT = re.compile(r"docker-init|catatonit|init binary", re.IGNORECASE)


@attrs.frozen
class Ended:
    """How a container ended; see ``TaskOutcome`` for the fields."""

    exit_code: int
    seconds: float
    timed_out: bool
    out_of_memory: bool
    peak_memory: int | None


def execute(
    connection: Connection,
    context: BackendContext,
    plan: Container,
    log: TaskLogWriter,
    time_limit: float | None,
    *,
    podman: bool,
) -> Ended:
    """Run a container to its end. Nothing of it is left when this returns or raises.

    Args:
        time_limit: seconds in total; None for no limit.
        podman: whether the engine is Podman, which does not tell that memory ran out.

    Raises:
        ExecutionError: the engine could not run it.
        CancelledError: the context's cancel token was set.
    """
    context.cancel.raise_if_cancelled()
    doing = f"run the task in the container {plan.name}"
    try:
        with connection.client(doing) as client, connection.client(doing, patient=True) as patient:
            created = _create(client, context, plan)
            return _Watch(client, patient, context, created, log, time_limit, podman).run(doing)
    finally:
        remove(connection, context, plan)


def _create(client: Client, context: BackendContext, plan: Container) -> Container:
    from docker.errors import APIError

    context.cancel.raise_if_cancelled()
    try:
        client.create_container(**create_arguments(client, plan))
    except APIError as error:
        if not plan.init or not _NO_INIT.search(str(error.explanation)):
            raise
        plan = attrs.evolve(plan, init=False)
        client.create_container(**create_arguments(client, plan))
    return plan


class _Watch:
    """One container from its start to its end: a thread for its output, one that waits, and this one that decides."""

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
        self._ended = threading.Event()
        self._answers: list[Any] = []
        self._code: int | None = None
        self._problems: list[BaseException] = []
        self._peak = 0

    def run(self, doing: str) -> Ended:
        name = self._plan.name
        self._patient.hooks["response"].append(lambda answer, **_: self._answers.append(answer))
        output = self._patient.attach(name, stream=True)
        threads = [self._thread(lambda: self._pump(output))]
        started = time.monotonic()
        try:
            self._client.start(name)
            self._thread(self._wait)
            timed_out = self._until_end(started)
            seconds = time.monotonic() - started
            for thread in threads:
                thread.join(GRACE_SECONDS)  # what it wrote last is still on its way
        finally:
            cut(self._answers)
            for thread in threads:
                thread.join(GRACE_SECONDS)
        self._raise_problems(doing)
        state = self._client.inspect_container(name)["State"]
        code = self._code if self._code is not None else int(state["ExitCode"])
        self._check_start(state, code)
        killed = code == 137 and self._plan.memory is not None and self._podman
        out_of_memory = code != 0 and not timed_out and (bool(state.get("OOMKilled")) or killed)
        return Ended(code, seconds, timed_out, out_of_memory, self._peak or None)

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:  # told by the deciding thread
                self._problems.append(error)
                self._ended.set()

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def _pump(self, output: Any) -> None:
        for data in output:
            self._log.feed(data)

    def _wait(self) -> None:
        self._code = int(self._patient.wait(self._plan.name)["StatusCode"])
        self._ended.set()

    def _until_end(self, started: float) -> bool:
        """Wait for the end; true if the time limit made it."""
        measured = started - MEASURE_SECONDS + 0.2
        while not self._ended.wait(POLL_SECONDS):
            now = time.monotonic()
            if self._context.cancel.cancelled:
                raise CancelledError(f"The task in the container {self._plan.name} was stopped.")
            if self._time_limit is not None and now - started > self._time_limit:
                with suppress(Exception):  # it may be ending by itself right now
                    self._client.kill(self._plan.name)
                self._ended.wait(GRACE_SECONDS)
                return True
            if now - measured > MEASURE_SECONDS:
                measured = now
                self._measure()
        return False

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
            raise engine_error(doing, str(problem)) from problem

    def _check_start(self, state: Any, code: int) -> None:
        """Raises if the engine or the first process could not start the task's program."""
        words = one_line(str(state.get("Error") or ""))
        first = next(iter(self._log.tail), "")
        if not words and code in (126, 127) and _INIT_FAILED.search(first):
            words = f"its program could not be started: {first}: failed to exec"
        if words and code != 0:
            raise engine_error(f"start the task in {self._plan.name}", words)


def remove(connection: Connection, context: BackendContext, plan: Container) -> None:
    """Kill and remove a container and its volumes, also if it is being removed already or was never made."""
    problem = ""
    for pause in (0.0, 0.1, 0.3, 1.0, 3.0):
        time.sleep(pause)
        try:
            with connection.client(f"remove the container {plan.name}") as client:
                if _gone(client, plan):
                    return
        except MedperfError as error:
            problem = str(error)
    context.emit(Notice(f"{problem} Remove it by hand: docker rm --force --volumes {plan.name}".strip(), "warning"))


def _gone(client: Client, plan: Container) -> bool:
    """Remove what is there; whether all of it is gone."""
    from docker.errors import APIError

    try:
        client.remove_container(plan.name, force=True, v=True)
    except APIError as error:
        if error.status_code == 409:  # its removal is in progress
            return False
        if error.status_code != 404:
            raise
    for name in plan.volume_names:
        try:
            client.remove_volume(name)
        except APIError as error:
            if error.status_code != 404:
                raise
    return True
