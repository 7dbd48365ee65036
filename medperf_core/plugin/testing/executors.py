"""The conformance kit of the executor seam.

Subclass ``ExecutorContract``, define the fixture ``plugin``, and run pytest. The jobs are small programs that the
``process`` runner runs; what they read and write is in the folder of the fixture ``shared``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities.image import IdentityKind, ImageIdentity
from medperf_core.errors import CancelledError, IsolationError, MedperfError, NotFoundError, VerificationError
from medperf_core.plugin.descriptors import ExecutorPlugin
from medperf_core.plugin.events import Event, TaskLog
from medperf_core.plugin.executor import Executor, ExecutorPromise, JobHandle, JobState
from medperf_core.plugin.testing.common import check_descriptor, fill_in, within
from medperf_core.plugin.testing.jobs import BLOCKED, ENDLESS, FAILING, TALKING, Jobs
from medperf_core.plugin.testing.promises import not_promised


def events_of(handle: JobHandle) -> list[Event]:
    """All events of a job, which has to end."""
    return within(lambda: list(handle.events()), f"the events of job {handle.id}")


def lines_of(events: list[Event]) -> list[str]:
    """What the task wrote, as the events tell it."""
    return [event.line for event in events if isinstance(event, TaskLog)]


class ExecutorContract:
    """What every executor does, and what those whose jobs outlive the program do."""

    PATIENCE = 15.0
    """Seconds after which a job that waits for the kit gives up: more than the executor takes to tell of it."""

    @pytest.fixture
    def plugin(self) -> ExecutorPlugin:
        """To be defined: the executor's descriptor."""
        fill_in("ExecutorContract", "plugin", "the executor's ExecutorPlugin")

    @pytest.fixture
    def settings(self, plugin: ExecutorPlugin) -> Any:
        """The executor's settings; by default those that nobody changed."""
        return plugin.settings()

    @pytest.fixture
    def shared(self, tmp_path: Path) -> Path:
        """A folder that this machine and those of the executor see; by default one of this machine."""
        return tmp_path

    @pytest.fixture
    def jobs(self, plugin: ExecutorPlugin, settings: Any, shared: Path) -> Iterator[Jobs]:
        jobs = Jobs(plugin, settings, shared, self.PATIENCE)
        yield jobs
        jobs.end()
        assert not list(jobs.temp.iterdir()), "something was left in the temporary folder"

    @pytest.fixture
    def executor(self, jobs: Jobs) -> Executor:
        return jobs.executor()

    def test_the_descriptor_is_usable(self, plugin: ExecutorPlugin, executor: Executor) -> None:
        check_descriptor(plugin, ExecutorPlugin)
        assert isinstance(executor, Executor)

    def test_the_outcome_is_what_the_worker_gives(self, jobs: Jobs, executor: Executor) -> None:
        job = jobs.make(TALKING)
        told, expected = jobs.run_here(job)
        assert lines_of(told) == ["seen 42", "asked for 7", "done"]
        jobs.clear_output()
        handle = executor.submit(job)
        assert lines_of(events_of(handle)) == lines_of(told)
        outcome = within(handle.outcome, "the job")
        for name in ("exit_code", "tail", "log_bytes", "engine", "images", "waivers", "limits", "timed_out"):
            assert getattr(outcome, name) == getattr(expected, name), f"{name} differs"
        assert jobs.output.read_text() == "42 and 7"
        assert job.request.log.read_bytes().count(b"\n") == 3, "the log file is not the task's whole output"

    def test_a_failing_task_is_an_outcome(self, jobs: Jobs, executor: Executor) -> None:
        handle = executor.submit(jobs.make(FAILING))
        assert within(handle.outcome, "the job").exit_code == 3
        assert within(handle.outcome, "the job").tail == ("no such patient",)
        assert handle.poll() is JobState.DONE

    def test_a_job_is_found_by_its_id_before_anybody_waits(self, jobs: Jobs, executor: Executor) -> None:
        job = jobs.make(BLOCKED)
        assert executor.submit(job).id == job.id
        again = executor.reattach(job.id)
        assert again.id == job.id
        assert again.poll() in (JobState.WAITING, JobState.RUNNING)
        jobs.unblock()
        assert within(again.outcome, "the job").exit_code == 0
        assert within(executor.reattach(job.id).outcome, "the job").exit_code == 0

    def test_a_job_that_nobody_submitted_is_not_found(self, executor: Executor) -> None:
        with pytest.raises(NotFoundError) as caught:
            executor.reattach("never-submitted")
        assert "never-submitted" in str(caught.value)

    def test_events_are_told_while_it_runs(self, jobs: Jobs, executor: Executor) -> None:
        handle = executor.submit(jobs.make(BLOCKED))

        def watch() -> list[str]:
            seen = []
            for event in handle.events():
                if isinstance(event, TaskLog):
                    seen.append(event.line)
                    assert len(seen) > 1 or handle.poll() is JobState.RUNNING, "it told of a job that does not run"
                    jobs.unblock()
            return seen

        assert within(watch, "the events") == ["up", "unblocked"]
        assert within(handle.outcome, "the job").exit_code == 0, "nothing was told until the task had ended"
        assert handle.poll() is JobState.DONE
        assert lines_of(events_of(handle)) in ([], ["up", "unblocked"]), "events of a job that ended came half"

    def test_an_outcome_needs_no_listener(self, jobs: Jobs, executor: Executor) -> None:
        handle = executor.submit(jobs.make(TALKING))
        assert within(handle.outcome, "the job").exit_code == 0
        assert lines_of(events_of(handle)) == ["seen 42", "asked for 7", "done"]

    def test_cancelling_leaves_nothing(self, jobs: Jobs, executor: Executor) -> None:
        handle = executor.submit(jobs.make(ENDLESS))
        processes = jobs.wait_for_processes()
        within(handle.cancel, "cancelling")
        assert not jobs.alive(processes), "a process of the job is still there after it was cancelled"
        assert handle.poll() in (JobState.DONE, JobState.LOST)
        with pytest.raises(CancelledError):
            within(handle.outcome, "the job")
        within(handle.cancel, "cancelling again")
        events_of(handle)

    def test_cancelling_what_has_ended_changes_nothing(self, jobs: Jobs, executor: Executor) -> None:
        handle = executor.submit(jobs.make(TALKING))
        before = within(handle.outcome, "the job")
        within(handle.cancel, "cancelling")
        assert within(handle.outcome, "the job") == before
        assert handle.poll() is JobState.DONE

    def test_cancelling_one_job_leaves_the_other(self, jobs: Jobs, executor: Executor) -> None:
        blocked = executor.submit(jobs.make(BLOCKED))
        endless = executor.submit(jobs.make(ENDLESS))
        assert blocked.id != endless.id
        jobs.wait_for_processes()
        within(endless.cancel, "cancelling")
        jobs.unblock()
        assert within(blocked.outcome, "the job").exit_code == 0
        assert lines_of(events_of(blocked)) == ["up", "unblocked"]

    def test_what_keeps_a_task_from_running_is_the_same_error(self, jobs: Jobs, executor: Executor) -> None:
        job = jobs.make(TALKING)
        other = (ImageIdentity(IdentityKind.SOURCE, "sha256:" + "0" * 64),)
        refused: list[tuple[dict[str, Any], type[MedperfError]]] = [
            ({"expected": other}, VerificationError),
            ({"waivers": ()}, IsolationError),
        ]
        for number, (changes, kind) in enumerate(refused):
            wrong = attrs.evolve(job, id=f"{job.id}-{number}", **changes)
            with pytest.raises(kind) as here:
                jobs.run_here(wrong)
            handle = executor.submit(wrong)
            assert lines_of(events_of(handle)) == []
            with pytest.raises(kind) as there:
                within(handle.outcome, "the job")
            assert str(there.value) == str(here.value), "the error says something else"
            assert handle.poll() in (JobState.DONE, JobState.LOST)
        assert not jobs.output.exists(), "the task was run"

    def test_jobs_outlive_the_program(self, jobs: Jobs, executor: Executor) -> None:
        self.need_outlives(jobs, executor)
        job = jobs.make(BLOCKED)
        if not (child := os.fork()):
            try:
                jobs.executor().submit(job)
            finally:
                os._exit(0)
        within(lambda: os.waitpid(child, 0), "submitting")
        again = jobs.executor().reattach(job.id)
        assert again.poll() in (JobState.WAITING, JobState.RUNNING)
        jobs.unblock()
        assert lines_of(events_of(again)) == ["up", "unblocked"]
        assert within(again.outcome, "the job").exit_code == 0

    def test_a_job_can_be_cancelled_by_another_program(self, jobs: Jobs, executor: Executor) -> None:
        self.need_outlives(jobs, executor)
        job = jobs.make(ENDLESS)
        executor.submit(job)
        processes = jobs.wait_for_processes()
        within(jobs.executor().reattach(job.id).cancel, "cancelling")
        assert not jobs.alive(processes)
        with pytest.raises(CancelledError):
            within(executor.reattach(job.id).outcome, "the job")

    def test_a_job_that_ends_with_its_program_says_so(self, jobs: Jobs, executor: Executor) -> None:
        if ExecutorPromise.OUTLIVES in executor.promises:
            not_promised(jobs.plugin.name, "that its jobs end with the program")
        job = jobs.make(TALKING)
        within(executor.submit(job).outcome, "the job")
        with pytest.raises(NotFoundError) as caught:
            jobs.executor().reattach(job.id)
        assert job.id in str(caught.value) and caught.value.hint

    def need_outlives(self, jobs: Jobs, executor: Executor) -> None:
        """Skip what the executor does not promise, by name."""
        if ExecutorPromise.OUTLIVES not in executor.promises:
            not_promised(jobs.plugin.name, "jobs that outlive the program")
