"""The executor seam: on which machine a task runs. Jobs are plain data; placement and queues are the engine's."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar

import attrs

from medperf_core.entities.image import ImageIdentity, ImageSource
from medperf_core.plugin.events import Event
from medperf_core.plugin.runner import TaskOutcome, TaskRequest


@attrs.frozen
class TaskJob:
    """All that the far side needs to verify and run one task.

    Attributes:
        id: chosen by the core, unique on this site; usable as a file name.
        runner: the runner's name.
        settings: the runner's settings by field name.
        source: where the image is. Paths are on a file system that both sides see.
        expected: identities that the image must have.
        request: the task.
        waivers: what the person at the site allowed, as ``--allow`` takes it.
        offline, proxies, ca_bundle: as in ``BackendContext``, for the far side.
    """

    id: str
    runner: str
    settings: Mapping[str, Any]
    source: ImageSource
    expected: tuple[ImageIdentity, ...]
    request: TaskRequest
    waivers: tuple[str, ...] = ()
    offline: bool = False
    proxies: Mapping[str, str] = attrs.field(factory=dict)
    ca_bundle: str | None = None


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    LOST = "lost"


class JobHandle(abc.ABC):
    """A job that was taken by an executor."""

    id: str

    @abc.abstractmethod
    def poll(self) -> JobState:
        """Where the job is now."""

    @abc.abstractmethod
    def events(self) -> Iterator[Event]:
        """What happens in the job, until it has ended; of a job that has ended, what was not told yet."""

    @abc.abstractmethod
    def outcome(self) -> TaskOutcome:
        """Wait for the end and report it.

        Raises:
            MedperfError: whatever kept the task from being run.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """Stop the job; nothing of it is left running. Of a job that has ended, nothing changes."""


class ExecutorPromise(StrEnum):
    """What an executor says of itself beyond what every one does. The conformance kit tries each one that is given."""

    OUTLIVES = "outlives"
    """Its jobs go on when the program that submitted them ends, and another one can reattach to them."""


class Executor(abc.ABC):
    """Takes jobs to a machine."""

    promises: ClassVar[frozenset[ExecutorPromise]] = frozenset()
    """What it does beyond what every executor does."""

    @abc.abstractmethod
    def submit(self, job: TaskJob) -> JobHandle:
        """Take a job. When this returns, ``reattach(job.id)`` finds it again, also from another process
        where the executor outlives this one.

        Raises:
            ExecutionError: it cannot be taken, for instance because a path is not on a shared file system.
        """

    @abc.abstractmethod
    def reattach(self, job_id: str) -> JobHandle:
        """The handle of a job that was submitted before.

        Raises:
            NotFoundError: no such job is known any more.
        """
