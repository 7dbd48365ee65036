"""The runner seam: how one container task runs on this machine. Requests and outcomes are plain, frozen data."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from medperf_core.entities.image import ImageIdentity, ImageSource
from medperf_core.entities.roles import VolumeKind
from medperf_core.entities.spec import TaskSpec
from medperf_core.errors import ExecutionError, InvalidEntityError
from medperf_core.plugin.doctor import Check
from medperf_core.plugin.isolation import Capabilities

TAIL_LINES = 40
"""Lines of output that an outcome carries."""


@attrs.frozen
class Mount:
    """One volume of a task on this machine.

    Attributes:
        label: the volume's label in the manifest.
        path: absolute path of the file or folder on this machine. An output exists already, empty.
        kind: file or folder.
        writable: the core's decision; a runner must not widen it.
    """

    label: str
    path: Path
    kind: VolumeKind
    writable: bool


@attrs.frozen
class Gpus:
    """Which GPUs a task gets: none (the default), a count, ids, or all.

    Attributes:
        count: how many; -1 for all; 0 for none or where ``ids`` says it.
        ids: device ids or UUIDs.
    """

    count: int = 0
    ids: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Gpus:
        """Read ``none``, ``all``, a count, or ``device=0,1``; None and "" mean none.

        Raises:
            UsageError: it is none of these.
        """
        from medperf_core.errors import UsageError

        word = (text or "").strip()
        if word in ("", "none", "0"):
            return cls()
        if word == "all":
            return cls(count=-1)
        if word.isascii() and word.isdigit() and len(word) < 10:
            return cls(count=int(word))
        ids = tuple(part.strip() for part in word.removeprefix("device=").split(","))
        if word.startswith("device=") and all(ids):
            return cls(ids=ids)
        raise UsageError(f"{word!r} does not say which GPUs.", hint="Use none, all, a count, or device=0,1.")

    def __bool__(self) -> bool:
        return bool(self.count or self.ids)

    def __str__(self) -> str:
        if self.ids:
            return "device=" + ",".join(self.ids)
        return {0: "none", -1: "all"}.get(self.count, str(self.count))


@attrs.frozen
class Resources:
    """What a task may use.

    Attributes:
        memory: bytes; None for no limit.
        cpus: number of CPUs, may be a fraction; None for no limit.
        processes: number of processes and threads; None for no limit.
        shm_size: bytes of /dev/shm; None for the engine's default.
        tmp_size: bytes of the task's own /tmp.
        gpus: which GPUs.
    """

    memory: int | None = None
    cpus: float | None = None
    processes: int | None = None
    shm_size: int | None = None
    tmp_size: int = 1 << 30
    gpus: Gpus = Gpus()


@attrs.frozen
class PreparedImage:
    """An image that is here, verified, and ready to run.

    Attributes:
        reference: what the runner runs: an image ID, a file or a folder; never a tag.
        identities: what it verifiably is; one image may have several.
        source: where it came from.
        command: for a source tree, nothing; for an engine, the image's own entrypoint and command, informative.
        architecture: such as ``amd64``, as the image says; None if there is no such thing or it is not known.
        size: bytes on disk; None if it is not known.
    """

    reference: str
    identities: tuple[ImageIdentity, ...]
    source: ImageSource
    command: tuple[str, ...] = ()
    architecture: str | None = None
    size: int | None = None


def _no_root(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    if value and not re.fullmatch(r"[1-9][0-9]{0,9}:[1-9][0-9]{0,9}", value):
        raise InvalidEntityError(f"A task cannot run as {value!r}; it must be UID:GID in numbers, and not root.")


@attrs.frozen
class TaskRequest:
    """One task to run.

    Attributes:
        task: what the manifest says of it.
        mounts: its volumes on this machine, one for each volume in ``task.volumes``.
        log: file that gets all of the task's output.
        resources: what it may use.
        environment: variables that the core adds to the manifest's.
        time_limit: seconds in total; None for no limit.
        waivers: names of the guarantees that were waived for it.
        user: UID:GID to run as, never root; "" leaves it to the runner. Asked only of one with ``Condition.USER``.
        working_dir: absolute path in the container to start in; "" for the image's own. Asked only of a runner
            with ``Condition.WORKING_DIR``.
    """

    task: TaskSpec
    mounts: tuple[Mount, ...]
    log: Path
    resources: Resources = Resources()
    environment: Mapping[str, str] = attrs.field(factory=dict)
    time_limit: float | None = None
    waivers: tuple[str, ...] = ()
    user: str = attrs.field(default="", validator=_no_root)
    working_dir: str = ""

    def mount(self, label: str) -> Mount:
        """The mount of a volume; KeyError if the core did not make one."""
        for mount in self.mounts:
            if mount.label == label:
                return mount
        raise KeyError(label)


@attrs.frozen
class TaskOutcome:
    """What became of a task.

    Attributes:
        exit_code: of the task; 128 + the signal's number if a signal ended it.
        started: UTC, ISO 8601.
        seconds: wall-clock time.
        tail: its last lines of output, at most ``TAIL_LINES``.
        log_bytes: size of all of its output.
        log_truncated: true if the log file was cut at its size limit.
        timed_out: true if the time limit ended it.
        out_of_memory: true if the memory limit ended it.
        too_many_processes: true if the limit of processes ended it.
        peak_memory: bytes; None if it was not measured.
        engine: name and version.
        images: identities of what ran.
        waivers: guarantees that were waived.
        limits: for each limit that held, who held it and its value, such as ``{"memory": "engine 8 GiB"}``.
        command: the exact engine command, without secrets.
    """

    exit_code: int
    started: str
    seconds: float
    engine: str
    images: tuple[ImageIdentity, ...]
    tail: tuple[str, ...] = ()
    log_bytes: int = 0
    log_truncated: bool = False
    timed_out: bool = False
    out_of_memory: bool = False
    too_many_processes: bool = False
    peak_memory: int | None = None
    waivers: tuple[str, ...] = ()
    limits: Mapping[str, str] = attrs.field(factory=dict)
    command: tuple[str, ...] = ()


class Runner(abc.ABC):
    """Runs container tasks with one engine. Made by a ``RunnerPlugin``'s factory; cheap to make."""

    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """What can be guaranteed on this machine, found by probing. Starts no container of anybody's.

        Raises:
            ExecutionError: the engine cannot be used at all; says why and what to do.
        """

    @abc.abstractmethod
    def supports(self, source: ImageSource) -> bool:
        """Whether ``prepare`` can do something with this kind of source. Opens no connection."""

    @abc.abstractmethod
    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        """Fetch, verify and if needed convert or build an image.

        Args:
            source: where to find it.
            expected: identities recorded for it. If there are any, at least one must be of a kind that can be
                compared and every one that can be compared must be equal; with none, whatever is there is
                taken and its identities are reported.

        Raises:
            VerificationError: it is something else; nothing of it is kept.
            ExecutionError: it cannot be had.
            OfflineError: a connection would be needed.
        """

    @abc.abstractmethod
    def run(self, prepared: PreparedImage, request: TaskRequest) -> TaskOutcome:
        """Run one task to its end and report it; a failing task is an outcome, not an error.

        Emits ``TaskLog`` events while it runs. When the context's cancel token is set, or this process is
        interrupted, nothing of the task is left running.

        Raises:
            ExecutionError: the engine could not run it.
            CancelledError: it was stopped by the cancel token.
        """

    @abc.abstractmethod
    def command_line(self, prepared: PreparedImage, request: TaskRequest) -> tuple[str, ...]:
        """The engine's own command that does the same as ``run``, for people to read and repeat."""

    def save(self, prepared: PreparedImage, folder: Path) -> Path:
        """Write a prepared image to a file that can be hosted, and return it.

        Args:
            folder: gets ``image.tar``, as ``docker save`` writes it, or ``image.sif``; it has neither yet.

        Raises:
            ExecutionError: it cannot be written, or this runner has no such files.
        """
        raise ExecutionError(
            f"The image of {prepared.source} cannot be saved: this runner has no image files.",
            hint="Use --platform docker or singularity.",
        )

    def doctor(self) -> Iterable[Check]:
        """Checks of this engine for ``medperf doctor``."""
        return ()
