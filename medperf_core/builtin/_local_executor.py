"""Runs jobs on this machine, one thread each. Jobs end with this program, so only it can reattach to them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from medperf_core.errors import NotFoundError
from medperf_core.plugin import BackendContext, Event, Executor, JobHandle, JobState, TaskJob, TaskOutcome

if TYPE_CHECKING:
    from medperf_core.plugin.descriptors import RunJob


class LocalHandle(JobHandle):
    """A job in a thread of this program."""

    def __init__(self, job: TaskJob, context: BackendContext, run: RunJob) -> None:
        self.id = job.id
        self._cancel = context.cancel.child()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._outcome: TaskOutcome | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._work, args=(job, run), name=f"task {job.request.task.name}", daemon=True
        )
        self._thread.start()

    def _work(self, job: TaskJob, run: RunJob) -> None:
        try:
            self._outcome = run(job, self._events.put, self._cancel)
        except BaseException as error:  # handed to the thread that waits
            self._error = error
        finally:
            self._events.put(None)

    def poll(self) -> JobState:
        """Running, or done."""
        return JobState.RUNNING if self._thread.is_alive() else JobState.DONE

    def events(self) -> Iterator[Event]:
        """Events as they happen, until the job has ended."""
        while (event := self._events.get()) is not None:
            yield event
        self._events.put(None)  # whoever asks again is told the end, too

    def outcome(self) -> TaskOutcome:
        """Wait for the end; raises what the job raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            raise NotFoundError(f"The job {self.id} ended without an outcome.")
        return self._outcome

    def cancel(self) -> None:
        """Stop the job and wait until nothing of it is left."""
        self._cancel.cancel()
        self._thread.join()


class LocalExecutor(Executor):
    """See the module."""

    def __init__(self, context: BackendContext, run: RunJob) -> None:
        self._context, self._run = context, run
        self._jobs: dict[str, LocalHandle] = {}

    def submit(self, job: TaskJob) -> JobHandle:
        """Start the job at once."""
        handle = self._jobs[job.id] = LocalHandle(job, self._context, self._run)
        return handle

    def reattach(self, job_id: str) -> JobHandle:
        """A job that this program started."""
        if job_id not in self._jobs:
            raise NotFoundError(
                f"The local job {job_id} is not known here: local jobs end with the program that started them.",
                hint="Run the command again.",
            )
        return self._jobs[job_id]
