"""A task's life: started closed, watched to its end or stopped, and nothing left in every case."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medperf_core.errors import ExecutionError, IsolationError
from medperf_core.plugin import (
    BackendContext,
    Enforcement,
    Event,
    Guarantee,
    Limit,
    Notice,
    PreparedImage,
    TaskOutcome,
    TaskRequest,
)
from medperf_core.plugin.handover import handed_over, unreadable
from medperf_core.plugin.isolation import NO_ISOLATION
from medperf_core.plugin.processes import new_marker
from medperf_core.plugin.supervise import Supervised, supervise
from medperf_core.plugin.tasklog import TaskLogWriter
from medperf_singularity import guard, leftovers, parts, probe
from medperf_singularity.arguments import Plan, describe, engine_words, shown, wanted
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import Engine
from medperf_singularity.probe_data import Ability

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings

KILLED = 128 + 9
_BEFORE_LIMIT = 64 << 10
_WAIVED_BY = {
    Guarantee.NETWORK: "no-network-isolation",
    Guarantee.MOUNTS: "no-mount-isolation",
    Guarantee.READ_ONLY_INPUTS: "writable-inputs",
    Guarantee.PRIVILEGES: "more-privileges",
}


class Output(TaskLogWriter):
    """A task's log that begins where the task does: what the engine said before is kept by itself."""

    def __init__(self, path: Path, task: str, emit: Callable[[Event], None]) -> None:
        super().__init__(path, task, emit)
        self.begun = False
        self.before = b""

    def feed(self, data: bytes) -> None:
        if not self.begun:
            head, mark, data = (self.before + data).partition(f"{parts.STARTED}\n".encode())
            self.begun, self.before = bool(mark), head[-_BEFORE_LIMIT:]
        if data:
            super().feed(data)


def run(
    engine: Engine,
    settings: SingularitySettings,
    context: BackendContext,
    prepared: PreparedImage,
    config: ImageConfig,
    request: TaskRequest,
) -> TaskOutcome:
    """Run one task; see ``Runner.run``.

    Raises:
        IsolationError: a guarantee is missing here and was not waived.
    """
    context.cancel.raise_if_cancelled()
    ability = probe.ability(engine, settings, context)
    refuse(engine, ability, request.waivers)
    if request.resources.gpus and not probe.has_gpus():
        raise ExecutionError(
            f"The task asks for GPUs ({request.resources.gpus}), and this machine shows none.",
            hint="Install NVIDIA's driver (nvidia-smi shows whether it works), or run it with --gpus none.",
        )
    if not Path(prepared.reference).is_absolute() or not Path(prepared.reference).exists():
        raise ExecutionError(
            f"The image {prepared.reference} of {prepared.source} is no longer there.",
            hint="Run the command again: it is then fetched again.",
        )
    plan = describe(settings, ability, prepared, config, request)
    for warning in _warnings(plan):
        context.emit(Notice(warning, "warning"))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with (
        parts.folder_of_run(context) as folder,
        Output(request.log, request.task.name, context.emit) as log,
        handed_over(plan.binds, plan.uid, plan.gid),
    ):
        parts.write(engine, plan, folder)
        try:
            ended = _supervise(engine, context, plan, folder, log, request)
        finally:
            leftovers.remove_control_groups()
        _check_start(plan, prepared, log, ended)
    return _outcome(engine, context, prepared, request, plan, log, ended, started)


def refuse(engine: Engine, ability: Ability, waivers: Iterable[str]) -> None:
    """The core checks this before it asks for a run; nothing is ever open because somebody else did not.

    Raises:
        IsolationError: a guarantee is missing and was not waived.
    """
    given = set(waivers)
    missing = [name for need, name in _WAIVED_BY.items() if need not in ability.guarantees and name not in given]
    if missing and NO_ISOLATION not in given:
        raise IsolationError(
            f"{engine.words} cannot keep this task closed ({', '.join(missing)}); nothing was started.",
            hint="`medperf doctor` tells what is missing and what to do about it.",
        )


def _warnings(plan: Plan) -> list[str]:
    found = [
        f"{path} is not readable for the account {plan.uid} that the task runs as; if it fails, change its "
        "permissions or set --singularity-run-as."
        for path in unreadable(plan.binds, plan.uid, plan.gid)
    ]
    if names := parts.lost(plan.variables):
        found.append(f"The engine cannot set these variables, which the task will not see: {', '.join(names)[:500]}.")
    return found


def _supervise(
    engine: Engine, context: BackendContext, plan: Plan, folder: Path, log: Output, request: TaskRequest
) -> Supervised:
    memory, cpus, processes = wanted(request)
    marker = new_marker()
    (folder / leftovers.OWNER_FILE).write_text(marker)
    with guard.guarded(folder):
        return supervise(
            engine_words(engine, plan, folder, str(folder / guard.PID_FILE)),
            cwd=folder,
            environment=engine.context_environment(context),
            log=log,
            cancel=context.cancel,
            marker=marker,
            time_limit=request.time_limit,
            memory=None if plan.memory else memory,
            processes=None if plan.processes or processes is None else processes + leftovers.ENGINE_PROCESSES,
            cpus=None if plan.cpus else cpus,
        )


def _check_start(plan: Plan, prepared: PreparedImage, log: Output, ended: Supervised) -> None:
    """Raises if the engine ended before the task's program was started."""
    stopped = ended.timed_out or ended.out_of_memory or ended.too_many_processes
    if log.begun or stopped or (ended.exit_code == KILLED and plan.memory):
        return
    said = log.tail[-1] if log.tail else ""
    words = log.before.decode("utf-8", "replace")
    if parts.MISSING in words:
        raise ExecutionError(
            f"The image of {prepared.source} does not have the program {plan.words[0]}, or it cannot be executed.",
            hint="Check the entrypoint in the manifest, and that the file in the image is executable.",
        )
    words = probe.last_words(words) if words.strip() else (said or f"it ended with code {ended.exit_code}")
    if "working directory" in words:
        raise ExecutionError(
            f"The task cannot start in {plan.working_dir}: the image of {prepared.source} has no such folder that it "
            f"may enter.",
            hint="Have the image's WORKDIR corrected.",
        )
    raise ExecutionError(
        f"The engine could not start the image of {prepared.source}: {words}.",
        hint="`medperf doctor` tells whether the engine works on this machine.",
    )


def _outcome(
    engine: Engine,
    context: BackendContext,
    prepared: PreparedImage,
    request: TaskRequest,
    plan: Plan,
    log: Output,
    ended: Supervised,
    started: str,
) -> TaskOutcome:
    killed = ended.exit_code == KILLED and plan.memory is not None and not ended.timed_out
    return TaskOutcome(
        exit_code=ended.exit_code,
        started=started,
        seconds=ended.seconds,
        engine=engine.words,
        images=prepared.identities,
        tail=log.tail,
        log_bytes=log.bytes,
        log_truncated=log.truncated,
        timed_out=ended.timed_out,
        out_of_memory=ended.out_of_memory or killed,
        too_many_processes=ended.too_many_processes,
        peak_memory=ended.peak_memory,
        waivers=request.waivers,
        limits=held(plan, request),
        command=shown(engine, context, plan, parts.keep(engine, context, plan)),
    )


def held(plan: Plan, request: TaskRequest) -> dict[str, str]:
    """For each limit that held: who held it, and its value."""
    memory, cpus, processes = wanted(request)

    def by(engine: object) -> str:
        return Enforcement.ENGINE.value if engine else Enforcement.POLLED.value

    found = {Limit.MEMORY.value: f"{by(plan.memory)} {memory / (1 << 30):g} GiB"}
    if processes is not None:
        found[Limit.PROCESSES.value] = f"{by(plan.processes)} {processes}"
    if cpus is not None:
        found[Limit.CPU.value] = f"{by(plan.cpus)} {cpus:g}"
    if request.time_limit is not None:
        found[Limit.TIME.value] = f"polled {request.time_limit:g} s"
    return found
