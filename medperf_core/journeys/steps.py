"""Steps of a test: a task whose outputs are kept, and reused while its image, inputs and parameters are unchanged."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from medperf_core.entities import StepRecord
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import ConfigurationError, InvalidEntityError
from medperf_core.journeys.containers import ReadyContainer
from medperf_core.journeys.tasks import (
    Volume,
    build_mounts,
    check_outputs,
    execute,
    move_folder,
    permit_run,
    record_of,
)
from medperf_core.plugin.digest import path_digest
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.plugin.runner import TaskOutcome, TaskRequest
from medperf_core.site.home import locked
from medperf_core.site.kept_steps import STEPS, note_step_use, step_lock
from medperf_core.site.site import Site


@attrs.frozen
class StepResult:
    """A step's outputs, by what the core offered, and its record."""

    outputs: Mapping[str, Volume]
    record: StepRecord


@attrs.frozen
class Step:
    """A step as it was done: its task and container, what it read and what it wrote, by what the core offered."""

    task: str
    container: ReadyContainer
    inputs: Mapping[str, Volume]
    outputs: Mapping[str, Volume]

    @property
    def name(self) -> str:
        """For people: the task and its container."""
        return f"{self.task} of {self.container.name or self.container.ref}"


@attrs.frozen
class Tested:
    """A test that passed: its steps, in order, and what they began with.

    Attributes:
        raw_labels: labels as they came.
        data: prepared data: what the model sees.
        labels: prepared labels.
    """

    raw_labels: Path
    data: Volume
    labels: Volume
    steps: tuple[Step, ...]

    def step(self, task: str) -> Step:
        """The step of a task that every test has."""
        return next(step for step in self.steps if step.task == task)


def run_step(
    site: Site,
    container: ReadyContainer,
    task_name: str,
    inputs: Mapping[str, Volume],
    *,
    benchmark: int | None = None,
    fresh: bool = False,
) -> StepResult:
    """Run a task, or take the outputs of an earlier run of the same image on the same inputs.

    Args:
        inputs: by what the core offers, such as ``data_path``.
        fresh: run it in any case.

    Raises:
        MedperfError: whatever kept the task from being done; nothing half-written is kept.
    """
    task = container.spec.task(task_name)
    read = {volume.offer for volume in task.volumes}
    digests = {offer: volume.digest for offer, volume in inputs.items() if offer in read}
    if container.additional_files and "additional_files" in read:
        digests["additional_files"] = site.digests.path_digest(container.additional_files)
    what = f"{task_name} of {container.name or container.ref}"
    permit_run(site, container, task_name, benchmark)
    key = _key(site, container, task_name, digests)
    kept = site.cache_dir / STEPS / key
    with _alone(site, key, what):
        if not fresh and (earlier := _earlier(kept, site.digests.path_digest)) is not None:
            note_step_use(kept)
            site.emit(StepFinished(what, "reused: image, inputs and parameters are unchanged"))
            return earlier
        return _done(site, container, task_name, inputs, digests, kept)


@contextmanager
def _alone(site: Site, key: str, what: str) -> Iterator[None]:
    """Two commands that want the same step do not do it twice: the second waits, and finds it done."""
    lock = step_lock(site.home, key)
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, what, timeout=0))
        except ConfigurationError:
            site.notice(f"Another command is busy with {what}; waiting for it.")
            held.enter_context(locked(lock, what, timeout=-1))
        yield


def _done(
    site: Site,
    container: ReadyContainer,
    task_name: str,
    inputs: Mapping[str, Volume],
    digests: Mapping[str, str],
    kept: Path,
) -> StepResult:
    task = container.spec.task(task_name)
    what = f"{task_name} of {container.name or container.ref}"
    site.emit(StepStarted(what))
    folder = site.temp / f"step-{uuid.uuid4().hex}"
    try:
        outcome, written = perform(site, container, task_name, inputs, folder)
        record = record_of(container, task, digests, outcome)
        relative = {
            offer: {"path": str(volume.path.relative_to(folder)), "digest": volume.digest}
            for offer, volume in written.items()
        }
        (folder / "step.json").write_text(
            json.dumps({"record": to_data(record), "outputs": relative}), encoding="utf-8"
        )
        shutil.rmtree(kept, ignore_errors=True)
        move_folder(folder, kept)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = f"{outcome.seconds:.1f} s"
    site.emit(StepFinished(what, f"{note}, waived: {', '.join(outcome.waivers)}" if outcome.waivers else note))
    moved = {offer: Volume(kept / volume.path.relative_to(folder), volume.digest) for offer, volume in written.items()}
    return StepResult(moved, record)


def perform(
    site: Site,
    container: ReadyContainer,
    task_name: str,
    inputs: Mapping[str, Volume],
    folder: Path,
    *,
    change: Callable[[TaskRequest], TaskRequest] | None = None,
) -> tuple[TaskOutcome, dict[str, Volume]]:
    """Run a task in any case and check its outputs; nothing is kept beyond the folder.

    Args:
        folder: a new folder, for the outputs.
        change: makes the request that runs from the usual one.

    Raises:
        MedperfError: whatever kept the task from being done.
    """
    task = container.spec.task(task_name)
    outputs = folder / "outputs"
    outputs.mkdir(parents=True)
    mounts = build_mounts(container, task, {offer: volume.path for offer, volume in inputs.items()}, outputs)
    outcome = execute(site, container, task, mounts, change=change)
    return outcome, check_outputs(task, mounts)


def _key(site: Site, container: ReadyContainer, task: str, digests: Mapping[str, str]) -> str:
    said = {
        "task": task,
        "images": sorted(map(str, container.image.identities)),
        "manifest": to_data(container.spec.task(task)),
        "inputs": dict(digests),
        "parameters": path_digest(container.parameters) if container.parameters else "",
        "platform": site.effective.platform,
        "gpus": str(site.effective.resources.gpus),
        # what an unsigned bundle brought is not reused, unseen, for what a maker signed
        **({"bundle": [container.bundle.index.maker, *container.bundle.waivers]} if container.bundle else {}),
    }
    return hashlib.sha256(to_json(said)).hexdigest()


def _earlier(kept: Path, digest: Callable[[Path], str] = path_digest) -> StepResult | None:
    """The result that is kept there, if it is whole and unchanged."""
    try:
        data = json.loads((kept / "step.json").read_text(encoding="utf-8"))
        record = from_data(data["record"], StepRecord)
        outputs = {}
        for offer, entry in data["outputs"].items():
            volume = Volume(kept / entry["path"], entry["digest"])
            if digest(volume.path) != volume.digest:
                return None
            outputs[offer] = volume
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidEntityError):
        return None
    return StepResult(outputs, attrs.evolve(record, reused=True))
