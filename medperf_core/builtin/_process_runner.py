"""Runs a container's own project as a program of this machine.

For machines without an engine, for tests and for a model author's quick loop. It isolates nothing, so a site must
allow it by name (``--allow no-isolation``). What runs is a private copy of the source tree, and the identity is
checked on that copy, so that what was compared is what runs.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import ExecutionError, InvalidEntityError, VerificationError
from medperf_core.plugin import (
    BackendContext,
    Capabilities,
    Check,
    Enforcement,
    Gpus,
    Health,
    Limit,
    PreparedImage,
    Runner,
    TaskOutcome,
    TaskRequest,
)
from medperf_core.plugin.digest import IGNORED_IN_SOURCES, source_digest, tree_digest, tree_entries
from medperf_core.plugin.kept import keeping, note_use
from medperf_core.plugin.processes import new_marker
from medperf_core.plugin.supervise import end_orphans, supervise
from medperf_core.plugin.tasklog import TaskLogWriter

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "LD_LIBRARY_PATH")


class ProcessRunner(Runner):
    """See the module."""

    def __init__(self, context: BackendContext) -> None:
        self._context = context

    @property
    def _engine(self) -> str:
        return f"process on {platform.system()} {platform.release()}"

    def capabilities(self) -> Capabilities:
        """No guarantee at all; memory, processes, processors and time are watched."""
        return Capabilities(
            engine=self._engine,
            guarantees=frozenset(),
            limits={
                Limit.MEMORY: Enforcement.POLLED,
                Limit.PROCESSES: Enforcement.POLLED,
                Limit.CPU: Enforcement.POLLED,
                Limit.TIME: Enforcement.POLLED,
            },
            gpus=True,
            notes=("Tasks run as programs of this user and can do all that this user can.",),
        )

    def supports(self, source: ImageSource) -> bool:
        """Source trees only."""
        return source.kind is SourceKind.TREE

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        """Copy the source tree privately and check the copy's identity; see ``Runner.prepare``."""
        end_orphans()
        wanted = list(expected)
        comparable = [identity for identity in wanted if identity.kind is IdentityKind.SOURCE]
        if wanted and not comparable:
            known = ", ".join(map(str, wanted))
            raise VerificationError(
                f"The source tree {source.location} cannot be compared with what was recorded for it ({known}).",
                hint="Its owner has to submit it with its project file, or you use a container engine.",
            )
        store = self._context.cache_dir / "process"
        store.mkdir(parents=True, exist_ok=True, mode=0o700)
        staged = store / f".new-{uuid.uuid4().hex}"
        try:
            _copy_tree(Path(source.location), staged)
            found = ImageIdentity(IdentityKind.SOURCE, source_digest(staged))
            if any(identity != found for identity in comparable):
                raise VerificationError(
                    f"The source tree {source.name or source.location} is not what was recorded for it: expected "
                    f"{comparable[0]}, found {found}. Nothing of it was run or kept."
                )
            place = store / found.digest.removeprefix("sha256:")
            with keeping(store):
                if not (place.exists() and tree_digest(place) == found.digest):
                    shutil.rmtree(place, ignore_errors=True)
                    staged.rename(place)
                note_use(place)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return PreparedImage(str(place), (found,), source)

    def command_line(self, prepared: PreparedImage, request: TaskRequest) -> tuple[str, ...]:
        """The program and its arguments with all placeholders filled in.

        Raises:
            InvalidEntityError: the manifest says nothing for this task.
        """
        if not request.task.process_command:
            raise InvalidEntityError(
                f"The manifest does not say how the process runner does {request.task.name}.",
                hint=f"Add process.tasks.{request.task.name} to it, or use a container engine (--platform docker).",
            )
        paths = {mount.label: str(mount.path) for mount in request.mounts}
        return tuple(
            _PLACEHOLDER.sub(lambda match: paths.get(match[1], match[0]), word) for word in request.task.process_command
        )

    def run(self, prepared: PreparedImage, request: TaskRequest) -> TaskOutcome:
        """Run one task; see ``Runner.run``."""
        self._context.cancel.raise_if_cancelled()
        command = self.command_line(prepared, request)
        if not Path(prepared.reference).is_dir():
            raise ExecutionError(
                f"The copy {prepared.reference} of the source tree is not there.",
                hint="Run the command again; it takes a new copy.",
            )
        # without exceptions: the copy has no file that a source tree's identity leaves out
        found = tree_digest(Path(prepared.reference))
        if found not in {identity.digest for identity in prepared.identities}:
            raise VerificationError(
                f"The source tree {prepared.reference} was changed since it was checked.",
                hint="Run the command again; it takes a new copy.",
            )
        scratch = self._context.temp_dir / f"process-{uuid.uuid4().hex}"
        (scratch / "tmp").mkdir(parents=True)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with TaskLogWriter(request.log, request.task.name, self._context.emit) as log:
                ended = supervise(
                    command,
                    cwd=Path(prepared.reference),
                    environment=self._environment(request, scratch),
                    log=log,
                    cancel=self._context.cancel,
                    marker=new_marker(),
                    time_limit=request.time_limit,
                    memory=request.resources.memory,
                    processes=request.resources.processes,
                    cpus=request.resources.cpus,
                )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return TaskOutcome(
            exit_code=ended.exit_code,
            started=started,
            seconds=round(ended.seconds, 3),
            engine=self._engine,
            images=prepared.identities,
            tail=log.tail,
            log_bytes=log.bytes,
            log_truncated=log.truncated,
            timed_out=ended.timed_out,
            out_of_memory=ended.out_of_memory,
            too_many_processes=ended.too_many_processes,
            peak_memory=ended.peak_memory,
            waivers=request.waivers,
            limits=_limits(request),
            command=command,
        )

    def _environment(self, request: TaskRequest, scratch: Path) -> dict[str, str]:
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        environment |= {
            "HOME": str(scratch),
            "TMPDIR": str(scratch / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
        }
        # the GPUs are the site's choice, so they come after what the manifest sets
        return {
            **environment,
            **request.task.environment,
            **request.environment,
            **_gpu_variables(request.resources.gpus),
        }

    def doctor(self) -> Iterable[Check]:
        """One reminder."""
        yield Check(
            "process runner",
            Health.OK,
            "always there; isolates nothing",
            "Use it for code that you trust; it needs --allow no-isolation.",
        )


def _gpu_variables(gpus: Gpus) -> dict[str, str]:
    if gpus.count == -1:
        return {}
    ids = gpus.ids or tuple(str(index) for index in range(gpus.count))
    return {"CUDA_VISIBLE_DEVICES": ",".join(ids)}


def _limits(request: TaskRequest) -> dict[str, str]:
    values = {
        Limit.MEMORY: request.resources.memory,
        Limit.PROCESSES: request.resources.processes,
        Limit.CPU: request.resources.cpus,
        Limit.TIME: request.time_limit,
    }
    return {limit.value: f"{Enforcement.POLLED.value} {value}" for limit, value in values.items() if value is not None}


def _copy_tree(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise ExecutionError(f"The source tree {source} is not there.")
    target.mkdir(mode=0o700)
    for entry in tree_entries(source, IGNORED_IN_SOURCES):
        place = target / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.link is not None:
            place.symlink_to(entry.link)
        else:
            shutil.copyfile(entry.absolute, place, follow_symlinks=False)
            place.chmod(0o755 if entry.executable else 0o644)
