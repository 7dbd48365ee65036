"""Executors that break one promise each, and two that break none. Not collected; see test_kit_mutations.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest

from medperf_core import errors
from medperf_core.builtin._local_executor import LocalExecutor, LocalHandle
from medperf_core.entities.codec import from_data, to_data
from medperf_core.errors import CancelledError, ExecutionError, MedperfError, NotFoundError
from medperf_core.plugin import (
    BackendContext,
    Event,
    Executor,
    ExecutorPlugin,
    ExecutorPromise,
    JobHandle,
    JobState,
    TaskJob,
    TaskLog,
    TaskOutcome,
)
from medperf_core.plugin.testing.executors import ExecutorContract

if TYPE_CHECKING:
    from medperf_core.plugin.descriptors import RunJob


class OfThreads(ExecutorContract):
    """The ``local`` executor, or what a subclass makes of it."""

    executor_class: ClassVar[type[LocalExecutor]] = LocalExecutor
    caught_by: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def plugin(self) -> ExecutorPlugin:
        def make(settings: Any, context: BackendContext, run: RunJob) -> Executor:
            return self.executor_class(context, run)

        return ExecutorPlugin(name="local", summary="here", api=1, make=make)


class TestSoundThreads(OfThreads):
    pass


class OtherOutcome(LocalExecutor):
    """Runs jobs otherwise than they were given."""

    def changed(self, job: TaskJob) -> TaskJob:
        return job

    def outcome(self, outcome: TaskOutcome) -> TaskOutcome:
        return outcome

    def __init__(self, context: BackendContext, run: RunJob) -> None:
        super().__init__(context, lambda job, emit, cancel: self.outcome(run(self.changed(job), emit, cancel)))


class TestForgetsTheEnvironment(OfThreads):
    caught_by = ("test_the_outcome_is_what_the_worker_gives",)

    class executor_class(OtherOutcome):
        def changed(self, job: TaskJob) -> TaskJob:
            return attrs.evolve(job, request=attrs.evolve(job.request, environment={}))


class TestForgetsLimits(OfThreads):
    caught_by = ("test_the_outcome_is_what_the_worker_gives",)

    class executor_class(OtherOutcome):
        def changed(self, job: TaskJob) -> TaskJob:
            return attrs.evolve(job, request=attrs.evolve(job.request, time_limit=None))


class TestVerifiesNothing(OfThreads):
    caught_by = ("test_what_keeps_a_task_from_running_is_the_same_error",)

    class executor_class(OtherOutcome):
        def changed(self, job: TaskJob) -> TaskJob:
            return attrs.evolve(job, expected=())


class TestWaivesEverything(OfThreads):
    caught_by = ("test_what_keeps_a_task_from_running_is_the_same_error",)

    class executor_class(OtherOutcome):
        def changed(self, job: TaskJob) -> TaskJob:
            return attrs.evolve(job, waivers=("no-isolation",))


class TestLosesTheExitCode(OfThreads):
    caught_by = ("test_a_failing_task_is_an_outcome",)

    class executor_class(OtherOutcome):
        def outcome(self, outcome: TaskOutcome) -> TaskOutcome:
            return attrs.evolve(outcome, exit_code=0)


class TestMakesErrorsOfOutcomes(OfThreads):
    caught_by = ("test_a_failing_task_is_an_outcome",)

    class executor_class(OtherOutcome):
        def outcome(self, outcome: TaskOutcome) -> TaskOutcome:
            if outcome.exit_code:
                raise ExecutionError("The task failed.")
            return outcome


class TestForgetsJobs(OfThreads):
    caught_by = ("test_a_job_is_found_by_its_id_before_anybody_waits",)

    class executor_class(LocalExecutor):
        def reattach(self, job_id: str) -> JobHandle:
            raise NotFoundError(f"The job {job_id} is not known.", hint="Run it again.")


class TestInventsJobs(OfThreads):
    caught_by = ("test_a_job_that_nobody_submitted_is_not_found",)

    class executor_class(LocalExecutor):
        def reattach(self, job_id: str) -> JobHandle:
            return super().reattach(next(iter(self._jobs), job_id)) if self._jobs else self._any(job_id)

        def _any(self, job_id: str) -> JobHandle:
            handle = LocalHandle.__new__(LocalHandle)
            handle.id = job_id
            return handle


class Handles(LocalExecutor):
    """Gives handles of another class."""

    handle: ClassVar[type[LocalHandle]]

    def submit(self, job: TaskJob) -> JobHandle:
        made = self._jobs[job.id] = self.handle(job, self._context, self._run)
        return made


class TestCancelsNothing(OfThreads):
    caught_by = ("test_cancelling_leaves_nothing",)

    class executor_class(Handles):
        class handle(LocalHandle):
            def cancel(self) -> None:
                pass


class TestCancelsAll(OfThreads):
    caught_by = ("test_cancelling_one_job_leaves_the_other",)

    class executor_class(Handles):
        class handle(LocalHandle):
            def __init__(self, job: TaskJob, context: BackendContext, run: RunJob) -> None:
                self._all = context.cancel
                super().__init__(job, context, run)

            def cancel(self) -> None:
                self._all.cancel()
                super().cancel()


class TestTellsLate(OfThreads):
    PATIENCE = 1.0
    caught_by = ("test_events_are_told_while_it_runs",)

    class executor_class(Handles):
        class handle(LocalHandle):
            def events(self) -> Iterator[Event]:
                self._thread.join()
                yield from super().events()


class TestTellsHalf(OfThreads):
    caught_by = ("test_the_outcome_is_what_the_worker_gives", "test_an_outcome_needs_no_listener")

    class executor_class(Handles):
        class handle(LocalHandle):
            def events(self) -> Iterator[Event]:
                yield from list(super().events())[:1]


class TestTellsErrorsOtherwise(OfThreads):
    caught_by = ("test_what_keeps_a_task_from_running_is_the_same_error", "test_cancelling_leaves_nothing")

    class executor_class(Handles):
        class handle(LocalHandle):
            def outcome(self) -> TaskOutcome:
                try:
                    return super().outcome()
                except MedperfError as error:
                    raise ExecutionError(error.message, hint=error.hint) from error


class TestCallsItWaiting(OfThreads):
    caught_by = ("test_a_failing_task_is_an_outcome", "test_events_are_told_while_it_runs")

    class executor_class(Handles):
        class handle(LocalHandle):
            def poll(self) -> JobState:
                return JobState.WAITING


class TestClaimsToOutlive(OfThreads):
    caught_by = ("test_jobs_outlive_the_program", "test_a_job_can_be_cancelled_by_another_program")

    class executor_class(LocalExecutor):
        promises = frozenset({ExecutorPromise.OUTLIVES})


class TestForgetsWhatEnded(OfThreads):
    caught_by = ("test_cancelling_what_has_ended_changes_nothing",)

    class executor_class(Handles):
        class handle(LocalHandle):
            def cancel(self) -> None:
                super().cancel()
                self._error = CancelledError("The work was interrupted.")


class TestKnowsJobsOfOthers(OfThreads):
    caught_by = ("test_a_job_that_ends_with_its_program_says_so",)

    class executor_class(LocalExecutor):
        everybodys: ClassVar[dict[str, LocalHandle]] = {}

        def __init__(self, context: BackendContext, run: RunJob) -> None:
            super().__init__(context, run)
            self._jobs = self.everybodys


class TestHasNoName(OfThreads):
    caught_by = ("test_the_descriptor_is_usable",)

    @pytest.fixture
    def plugin(self) -> ExecutorPlugin:
        def make(settings: Any, context: BackendContext, run: RunJob) -> Executor:
            return LocalExecutor(context, run)

        return ExecutorPlugin(name="My Executor", summary="here", api=1, make=make)


class DetachedHandle(JobHandle):
    """A worker in a process of its own, known by the files of its folder."""

    def __init__(self, folder: Path) -> None:
        self.id, self._folder = folder.name, folder

    @property
    def _ended(self) -> bool:
        return any((self._folder / name).exists() for name in ("outcome.json", "error.json"))

    def _alive(self) -> bool:
        try:
            pid = int((self._folder / "pid").read_text())
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (OSError, ValueError):
            return False

    def poll(self) -> JobState:
        if self._ended and not self._alive():
            return JobState.DONE
        return JobState.RUNNING if self._alive() else JobState.LOST

    def events(self) -> Iterator[Event]:
        told = 0
        while True:
            over = self.poll() is not JobState.RUNNING
            file = self._folder / "events.jsonl"
            lines = file.read_text().split("\n")[:-1] if file.exists() else []
            for line in lines[told:]:
                event = json.loads(line)
                if event.pop("event") == "TaskLog":
                    yield from_data(event, TaskLog)
            told = len(lines)
            if over:
                return
            time.sleep(0.02)

    def outcome(self) -> TaskOutcome:
        while self.poll() is JobState.RUNNING:
            time.sleep(0.02)
        if self.poll() is JobState.LOST:
            raise ExecutionError(f"The job {self.id} was lost.", hint="Run it again.")
        if (self._folder / "outcome.json").exists():
            return from_data(json.loads((self._folder / "outcome.json").read_text()), TaskOutcome)
        told = json.loads((self._folder / "error.json").read_text())
        raise getattr(errors, told["error"])(told["message"])

    def cancel(self) -> None:
        while self._alive():
            os.kill(int((self._folder / "pid").read_text()), signal.SIGTERM)
            time.sleep(0.05)


class DetachedExecutor(Executor):
    """Starts a worker for each job and lets it go."""

    promises = frozenset({ExecutorPromise.OUTLIVES})

    def __init__(self, context: BackendContext) -> None:
        self._jobs = context.cache_dir / "detached"

    def submit(self, job: TaskJob) -> JobHandle:
        folder = self._jobs / job.id
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(to_data(job)))
        worker = subprocess.Popen(
            [sys.executable, "-m", "medperf_core.plugin.worker", str(folder / "job.json"), str(folder)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        (folder / "pid").write_text(str(worker.pid))
        worker.returncode = 0  # it is not waited for
        return DetachedHandle(folder)

    def reattach(self, job_id: str) -> JobHandle:
        if not (self._jobs / job_id).is_dir():
            raise NotFoundError(f"The job {job_id} is not known.", hint="Run it again.")
        return DetachedHandle(self._jobs / job_id)


class TestSoundProcesses(ExecutorContract):
    caught_by = ()

    @pytest.fixture
    def plugin(self) -> ExecutorPlugin:
        def make(settings: Any, context: BackendContext, run: RunJob) -> Executor:
            return DetachedExecutor(context)

        return ExecutorPlugin(name="detached", summary="workers", api=1, make=make)
