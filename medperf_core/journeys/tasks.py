"""One task of a container, from its inputs to its outputs, through the site's policy, runner and executor."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities import StepRecord, TaskSpec, VolumeKind, VolumeSpec
from medperf_core.entities.checks import json_problem
from medperf_core.entities.roles import ADDITIONAL_FILES, PARAMETERS, TASKS, VolumeRule, volume_rules
from medperf_core.errors import ExecutionError, InvalidEntityError, MedperfError, TimeLimitError
from medperf_core.journeys.containers import ReadyContainer
from medperf_core.plugin.descriptors import RunnerPlugin
from medperf_core.plugin.digest import path_digest
from medperf_core.plugin.executor import TaskJob
from medperf_core.plugin.isolation import check_isolation
from medperf_core.plugin.manifest import load_yaml
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.plugin.runner import Mount, TaskOutcome, TaskRequest
from medperf_core.plugin.worker import needed_limits
from medperf_core.site.options import parse_size
from medperf_core.site.site import Site

NOTHING = ".nothing"
"""Name, among the outputs, of the empty folder that stands for an input that there is not."""

SHM_LIMIT = 16 << 30
"""Bytes of /dev/shm that a manifest may ask for where the site sets no memory limit."""

OUTPUT_FILE_NAMES = {"statistics": "statistics.yaml", "evaluate": "results.yaml"}


@attrs.frozen
class Volume:
    """A file or folder that a task reads or wrote, with its path-aware SHA-256."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path, digest: Callable[[Path], str] = path_digest) -> Volume:
        """Hash what is there; for inputs by ``site.digests.path_digest``, which reads only what changed."""
        return cls(path, digest(path))


def build_mounts(
    container: ReadyContainer, task: TaskSpec, inputs: Mapping[str, Path], outputs: Path
) -> tuple[Mount, ...]:
    """A mount for each volume of a task. Which may be written is decided here, by the core's own table.

    Args:
        inputs: paths by what the core offers (``data_path``, ...).
        outputs: folder in which a new, empty file or folder is made for each output.

    Raises:
        InvalidEntityError: the manifest asks for something that the task does not get.
    """
    rules = volume_rules(task.name)
    problems: list[str] = []
    mounts = []
    for volume in task.volumes:
        rule = rules.get(volume.offer)
        if rule is None:
            if volume.offer in inputs and not volume.writable:
                rule = VolumeRule(volume.offer, volume.kind, writable=False)
            elif volume.writable and task.name not in FIELD_TASKS:
                rule = VolumeRule(volume.offer, volume.kind, writable=True)
            else:
                problems.append(f"{volume.label}: {task.name} gets nothing of that name")
                continue
        if volume.writable != rule.writable:
            direction = "an output" if rule.writable else "an input that cannot be written"
            problems.append(f"{volume.label}: it is {direction} of {task.name}, whatever the manifest says")
            continue
        try:
            if rule.writable:
                path = _output(volume, rule, task, outputs)
            else:
                path = _input(volume, rule, container, inputs, outputs)
        except InvalidEntityError as error:
            problems.append(error.message)
            continue
        kind = rule.kind
        if volume.subpath:  # what lies below additional files is known only now
            kind = VolumeKind.DIRECTORY if path.is_dir() else VolumeKind.FILE
        mounts.append(Mount(volume.label, path, kind, rule.writable))
    if problems:
        raise InvalidEntityError(
            f"The task {task.name} of {container.name or container.ref} cannot be given its volumes:", problems=problems
        )
    return tuple(mounts)


FIELD_TASKS = frozenset(task for tasks in TASKS.values() for task in tasks)
"""Tasks whose outputs are all known; a task of another name may write what its manifest calls an output."""


def _input(
    volume: VolumeSpec, rule: VolumeRule, container: ReadyContainer, inputs: Mapping[str, Path], outputs: Path
) -> Path:
    if volume.offer == PARAMETERS:
        found = inputs.get(PARAMETERS, container.parameters)
        if found is None:
            raise InvalidEntityError(f"{volume.label}: the container has no parameters file")
    elif volume.offer == ADDITIONAL_FILES:
        found = inputs.get(ADDITIONAL_FILES, container.additional_files)
        if found is None:
            if volume.subpath:
                raise InvalidEntityError(f"{volume.label}: additional_files/{volume.subpath} is not there")
            found = _nothing(outputs)
    else:
        found = inputs.get(volume.offer)
        if found is None and not rule.required and rule.kind is VolumeKind.DIRECTORY:
            found = _nothing(outputs)
        if found is None:
            raise InvalidEntityError(f"{volume.label}: no path was given for it")
    place = Path(os.path.realpath(found / volume.subpath))  # unlike resolve(), it takes links that lead in a circle
    if volume.subpath and not place.is_relative_to(os.path.realpath(found)):
        raise InvalidEntityError(f"{volume.label}: {volume.subpath} leads out of {volume.offer}")
    if not os.access(place, os.F_OK):  # false also for names that no file system can have
        raise InvalidEntityError(f"{volume.label}: {found / volume.subpath} is not there")
    if not volume.subpath and place.is_dir() != (volume.kind is VolumeKind.DIRECTORY):
        raise InvalidEntityError(f"{volume.label}: {place} is not a {volume.kind.value}")
    return place


def _nothing(outputs: Path) -> Path:
    """An empty folder, for an optional input that there is not."""
    folder = outputs / NOTHING
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _output(volume: VolumeSpec, rule: VolumeRule, task: TaskSpec, outputs: Path) -> Path:
    folder = outputs / volume.offer
    folder.mkdir(parents=True)
    if rule.kind is VolumeKind.DIRECTORY:
        return folder
    path = folder / OUTPUT_FILE_NAMES.get(task.name, f"{volume.offer}.yaml")
    path.touch()
    return path


def permit_run(site: Site, container: ReadyContainer, task: str, benchmark: int | None) -> tuple[str, ...]:
    """Let a task pass the policies and the guarantees of this site, before anything of it is started or reused.

    Returns:
        The waivers that it needs.

    Raises:
        DeniedError: a policy says no.
        IsolationError: a guarantee is missing and was not waived.
        ExecutionError: GPUs are asked for that the runner cannot give.
    """
    resources = site.effective.resources
    capabilities = site.capabilities
    if resources.gpus and not capabilities.gpus:
        raise ExecutionError(
            f"{capabilities.engine} has no GPUs to give, but {resources.gpus} were asked for.",
            hint="Use --gpus none, or see medperf doctor.",
        )
    limits = needed_limits(resources, site.effective.time_limits.get(task))
    isolation = check_isolation(capabilities, container.image.identities, site.effective.waivers, limits)
    waived = (*isolation, *_waived_for(container))
    site.permit(
        Action.RUN,
        PolicySubject(
            what=f"task {task} of {container.name or container.ref}",
            owner=container.owner,
            benchmark=benchmark,
            images=tuple(map(str, container.image.identities)),
            details={"task": task, "container": container.ref, "waivers": list(waived)},
        ),
    )
    return waived


def _waived_for(container: ReadyContainer) -> tuple[str, ...]:
    return container.bundle.waivers if container.bundle else ()


def execute(
    site: Site,
    container: ReadyContainer,
    task: TaskSpec,
    mounts: tuple[Mount, ...],
    *,
    change: Callable[[TaskRequest], TaskRequest] | None = None,
) -> TaskOutcome:
    """Run a task that was permitted; its log is kept in the site's logs.

    Args:
        change: makes the request that runs from the usual one.

    Raises:
        TimeLimitError, ExecutionError: the task failed; with its exit code and last lines.
    """
    what = f"task {task.name} of {container.name or container.ref}"
    request = task_request(site, task, mounts)
    job = TaskJob(
        id=uuid.uuid4().hex,
        runner=site.effective.platform,
        settings=_runner_settings(site),
        source=container.source,
        expected=container.image.identities,
        request=change(request) if change else request,
        waivers=tuple(map(str, site.effective.waivers)),
        offline=site.effective.offline,
        proxies=site.profile.proxies,
        ca_bundle=site.profile.ca_bundle,
    )
    with site.jobs.noted(job.id, what):
        handle = site.executor.submit(job)
        try:
            for event in handle.events():
                site.emit(event)
        except BaseException:
            handle.cancel()
            raise
        outcome = handle.outcome()
    _raise_failure(what, job, outcome)
    return attrs.evolve(outcome, waivers=(*outcome.waivers, *_waived_for(container)))


def task_request(site: Site, task: TaskSpec, mounts: tuple[Mount, ...]) -> TaskRequest:
    """The request for a task with the site's resources and limits; the manifest may narrow them, not widen."""
    resources = site.effective.resources
    if task.shm_size and resources.shm_size is None:
        resources = attrs.evolve(resources, shm_size=min(parse_size(task.shm_size), resources.memory or SHM_LIMIT))
    log = site.home.logs_dir / "tasks" / f"{task.name}-{uuid.uuid4().hex[:12]}.log"
    return TaskRequest(
        task=task, mounts=mounts, log=log, resources=resources, time_limit=site.effective.time_limits.get(task.name)
    )


def _runner_settings(site: Site) -> dict[str, object]:
    settings = site.settings(site.plugins.get(RunnerPlugin, site.effective.platform))
    return {field.name: getattr(settings, field.name) for field in attrs.fields(type(settings))}


def _raise_failure(what: str, job: TaskJob, outcome: TaskOutcome) -> None:
    tail = "".join(f"\n    {line}" for line in outcome.tail[-12:])
    said = f" Its last lines were:{tail}" if tail else " It wrote nothing."
    log = f"{said}\nAll of its output is in {job.request.log}."
    if outcome.timed_out:
        raise TimeLimitError(
            f"The {what} ran past its time limit of {job.request.time_limit:g} s and was stopped.{log}",
            hint=f"Give it more with: --time-limit {job.request.task.name}=SECONDS",
        )
    if outcome.out_of_memory:
        raise ExecutionError(
            f"The {what} needed more memory than it may use and was stopped.{log}",
            hint="Give it more with: --memory SIZE",
        )
    if outcome.too_many_processes:
        raise ExecutionError(
            f"The {what} started more processes than it may and was stopped.{log}",
            hint="The profile's key processes says how many it may have.",
        )
    if outcome.exit_code != 0:
        raise ExecutionError(f"The {what} failed with exit code {outcome.exit_code}.{log}")


def record_of(container: ReadyContainer, task: TaskSpec, inputs: Mapping[str, str], outcome: TaskOutcome) -> StepRecord:
    """What the report says of a task."""
    return StepRecord(
        task=task.name,
        container=f"{container.ref} ({container.name})" if container.name else container.ref,
        images=sorted(map(str, outcome.images)),
        inputs=dict(inputs),
        parameters=path_digest(container.parameters) if container.parameters else "",
        engine=outcome.engine,
        waivers=list(outcome.waivers),
        limits=dict(outcome.limits),
        started=outcome.started,
        seconds=outcome.seconds,
        peak_memory=outcome.peak_memory,
        bundle=container.bundle.record if container.bundle else {},
    )


def check_outputs(task: TaskSpec, mounts: tuple[Mount, ...]) -> dict[str, Volume]:
    """Hash what a task wrote, by what the core offered; refuse what is missing or not a plain file or folder.

    Raises:
        ExecutionError: an output is missing or empty, or is or holds something else than files.
    """
    found = {}
    for volume in task.volumes:
        mount = next((item for item in mounts if item.label == volume.label), None)
        if mount is None or not mount.writable:
            continue
        path = mount.path
        whole = path.is_dir() if mount.kind is VolumeKind.DIRECTORY else path.is_file()
        if path.is_symlink() or not whole:
            raise ExecutionError(f"The task {task.name} put something else where its output {volume.label} should be.")
        rule = volume_rules(task.name).get(volume.offer)
        if mount.kind is VolumeKind.FILE and path.stat().st_size == 0:
            if rule is not None and not rule.required:
                continue
            raise ExecutionError(f"The task {task.name} ended well but wrote nothing to its output {volume.label}.")
        privileged = _with_privileges(path)
        if privileged is not None:
            raise ExecutionError(
                f"The task {task.name} wrote a setuid or setgid file to its output {volume.label}: {privileged.name}."
            )
        try:
            found[volume.offer] = Volume.of(path)
        except InvalidEntityError as error:
            raise ExecutionError(
                f"The output {volume.label} of the task {task.name} is not acceptable: {'; '.join(error.problems)}."
            ) from error
        except OSError as error:
            raise ExecutionError(
                f"The output {volume.label} of the task {task.name} cannot be read: {error.strerror}."
            ) from error
    return found


def _with_privileges(path: Path) -> Path | None:
    """The first file there that would run with its owner's or group's rights."""
    files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names) if path.is_dir() else (path,)
    bits = stat.S_ISUID | stat.S_ISGID
    return next((file for file in files if not file.is_symlink() and file.lstat().st_mode & bits), None)


def read_map(path: Path, what: str) -> dict[str, Any]:
    """A YAML map that a container wrote, checked as hostile input.

    Raises:
        ExecutionError: it is not YAML, not a map, empty, or holds what JSON cannot carry.
    """
    try:
        data = load_yaml(path)
    except InvalidEntityError as error:
        raise ExecutionError(f"The container's {what} cannot be read: {error}") from error
    if not isinstance(data, dict) or not data:
        raise ExecutionError(f"The container's {what} file must hold a map that is not empty.")
    problem = json_problem(data)
    if problem:
        raise ExecutionError(f"The container's {what} file {problem}.")
    return data


def move_folder(source: Path, target: Path) -> None:
    """Give a finished folder its final name; if another process was faster with the same, keep the other's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if not target.is_dir():
            raise MedperfError(f"{target} cannot be written: {error.strerror}.") from error
        shutil.rmtree(source, ignore_errors=True)
