"""One task of a container, from its inputs to its outputs, through the site's policy, runner and executor."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import attrs

from medperf_core.entities import StepRecord, TaskSpec, VolumeKind, VolumeSpec
from medperf_core.entities.codec import to_data
from medperf_core.entities.roles import ADDITIONAL_FILES, PARAMETERS, VolumeRule, volume_rules
from medperf_core.errors import ExecutionError, InvalidEntityError, MedperfError, TimeLimitError
from medperf_core.journeys.containers import ReadyContainer
from medperf_core.plugin.digest import path_digest
from medperf_core.plugin.executor import TaskJob
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.plugin.runner import Mount, Resources, TaskOutcome, TaskRequest
from medperf_core.site.site import Site

OUTPUT_FILE_NAMES = {"statistics": "statistics.yaml", "evaluate": "results.yaml"}


@attrs.frozen
class Volume:
    """A file or folder that a task reads or wrote, with its path-aware SHA-256."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> Volume:
        """Hash what is there."""
        return cls(path, path_digest(path))


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
            elif volume.writable and task.name not in OUTPUT_TASKS:
                rule = VolumeRule(volume.offer, volume.kind, writable=True)
            else:
                problems.append(f"{volume.label}: {task.name} gets nothing of that name")
                continue
        if volume.writable != rule.writable:
            direction = "an output" if rule.writable else "an input that cannot be written"
            problems.append(f"{volume.label}: it is {direction} of {task.name}, whatever the manifest says")
            continue
        try:
            path = _output(volume, rule, task, outputs) if rule.writable else _input(volume, container, inputs, outputs)
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


OUTPUT_TASKS = frozenset({"prepare", "sanity_check", "statistics", "infer", "evaluate"})
"""Tasks whose outputs are all known; a task of another name may write what its manifest calls an output."""


def _input(volume: VolumeSpec, container: ReadyContainer, inputs: Mapping[str, Path], outputs: Path) -> Path:
    if volume.offer == PARAMETERS:
        found = inputs.get(PARAMETERS, container.parameters)
        if found is None:
            raise InvalidEntityError(f"{volume.label}: the container has no parameters file")
    elif volume.offer == ADDITIONAL_FILES:
        found = inputs.get(ADDITIONAL_FILES, container.additional_files)
        if found is None:
            if volume.subpath:
                raise InvalidEntityError(f"{volume.label}: additional_files/{volume.subpath} is not there")
            found = outputs.parent / "no_additional_files"
            found.mkdir(exist_ok=True)
    else:
        found = inputs.get(volume.offer)
        if found is None:
            raise InvalidEntityError(f"{volume.label}: no path was given for it")
    place = (found / volume.subpath).resolve()
    if volume.subpath and not place.is_relative_to(found.resolve()):
        raise InvalidEntityError(f"{volume.label}: {volume.subpath} leads out of {volume.offer}")
    if not place.exists():
        raise InvalidEntityError(f"{volume.label}: {found / volume.subpath} is not there")
    if not volume.subpath and place.is_dir() != (volume.kind is VolumeKind.DIRECTORY):
        raise InvalidEntityError(f"{volume.label}: {place} is not a {volume.kind.value}")
    return place


def _output(volume: VolumeSpec, rule: VolumeRule, task: TaskSpec, outputs: Path) -> Path:
    folder = outputs / volume.offer
    folder.mkdir(parents=True)
    if rule.kind is VolumeKind.DIRECTORY:
        return folder
    path = folder / OUTPUT_FILE_NAMES.get(task.name, f"{volume.offer}.yaml")
    path.touch()
    return path


def site_resources(site: Site) -> Resources:
    """The resources that the site gives to a task."""
    return site.effective.resources


def execute(
    site: Site, container: ReadyContainer, task: TaskSpec, mounts: tuple[Mount, ...], *, benchmark: int | None = None
) -> TaskOutcome:
    """Run a task: policy, then the executor; its log is kept in the site's logs.

    Raises:
        DeniedError: a policy says no.
        IsolationError: a guarantee is missing and was not waived.
        TimeLimitError, ExecutionError: the task failed; with its exit code and last lines.
    """
    what = f"task {task.name} of {container.name or container.ref}"
    site.permit(
        Action.RUN,
        PolicySubject(
            what=what,
            owner=container.owner,
            benchmark=benchmark,
            images=tuple(map(str, container.image.identities)),
            details={"task": task.name, "container": container.ref},
        ),
    )
    job = TaskJob(
        id=uuid.uuid4().hex,
        runner=site.effective.platform,
        settings=_runner_settings(site),
        source=container.source,
        expected=container.image.identities,
        request=task_request(site, task, mounts),
        waivers=tuple(map(str, site.effective.waivers)),
    )
    (site.temp / f"job-{job.id}.json").write_text(json.dumps(to_data(job)), encoding="utf-8")
    handle = site.executor.submit(job)
    try:
        for event in handle.events():
            site.emit(event)
    except BaseException:
        handle.cancel()
        raise
    outcome = handle.outcome()
    _raise_failure(site, what, job, outcome)
    return outcome


def task_request(site: Site, task: TaskSpec, mounts: tuple[Mount, ...]) -> TaskRequest:
    """The request for a task with the site's resources and limits; the manifest may narrow them, not widen."""
    resources = site_resources(site)
    if task.shm_size and resources.shm_size is None:
        from medperf_core.site.options import parse_size

        resources = attrs.evolve(resources, shm_size=parse_size(task.shm_size))
    log = site.home.logs_dir / "tasks" / f"{task.name}-{uuid.uuid4().hex[:12]}.log"
    return TaskRequest(
        task=task, mounts=mounts, log=log, resources=resources, time_limit=site.effective.time_limits.get(task.name)
    )


def _runner_settings(site: Site) -> dict[str, object]:
    from medperf_core.plugin.descriptors import RunnerPlugin

    settings = site.settings(site.plugins.get(RunnerPlugin, site.effective.platform))
    return {field.name: getattr(settings, field.name) for field in attrs.fields(type(settings))}


def _raise_failure(site: Site, what: str, job: TaskJob, outcome: TaskOutcome) -> None:
    tail = "".join(f"\n    {line}" for line in outcome.tail[-12:])
    said = f" Its last lines were:{tail}" if tail else " It wrote nothing."
    log = f"\nAll of its output is in {job.request.log}"
    if outcome.timed_out:
        raise TimeLimitError(
            f"The {what} ran past its time limit of {job.request.time_limit:g} s and was stopped.{said}{log}",
            hint=f"(give it more with --time-limit {job.request.task.name}=SECONDS).",
        )
    if outcome.out_of_memory:
        raise ExecutionError(
            f"The {what} needed more memory than it may use and was stopped.{said}{log}",
            hint="(give it more with --memory).",
        )
    if outcome.exit_code != 0:
        raise ExecutionError(f"The {what} failed with exit code {outcome.exit_code}.{said}{log}.")


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
        if mount.kind is VolumeKind.FILE and path.stat().st_size == 0:
            raise ExecutionError(f"The task {task.name} ended well but wrote nothing to its output {volume.label}.")
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


def move_folder(source: Path, target: Path) -> None:
    """Give a finished folder its final name; if another process was faster with the same, keep the other's."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(target)
    except OSError as error:
        if not target.is_dir():
            raise MedperfError(f"{target} cannot be written: {error.strerror}.") from error
        shutil.rmtree(source, ignore_errors=True)
