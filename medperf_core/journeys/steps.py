"""Steps of a test: a task whose outputs are kept, and reused while its image, inputs and parameters are unchanged."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import attrs

from medperf_core.entities import StepRecord
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import InvalidEntityError
from medperf_core.journeys.containers import ReadyContainer
from medperf_core.journeys.tasks import Volume, build_mounts, check_outputs, execute, move_folder, record_of
from medperf_core.plugin.digest import path_digest
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.site.site import Site


@attrs.frozen
class StepResult:
    """A step's outputs, by what the core offered, and its record."""

    outputs: Mapping[str, Volume]
    record: StepRecord


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
        digests["additional_files"] = path_digest(container.additional_files)
    what = f"{task_name} of {container.name or container.ref}"
    kept = site.home.cache_dir / "steps" / _key(site, container, task_name, digests)
    if not fresh and (earlier := _earlier(kept)) is not None:
        site.emit(StepFinished(what, "reused: image, inputs and parameters are unchanged"))
        return earlier
    site.emit(StepStarted(what))
    folder = site.temp / f"step-{uuid.uuid4().hex}"
    outputs = folder / "outputs"
    outputs.mkdir(parents=True)
    try:
        mounts = build_mounts(container, task, {offer: volume.path for offer, volume in inputs.items()}, outputs)
        outcome = execute(site, container, task, mounts, benchmark=benchmark)
        written = check_outputs(task, mounts)
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


def _key(site: Site, container: ReadyContainer, task: str, digests: Mapping[str, str]) -> str:
    said = {
        "task": task,
        "images": sorted(map(str, container.image.identities)),
        "manifest": to_data(container.spec.task(task)),
        "inputs": dict(digests),
        "parameters": path_digest(container.parameters) if container.parameters else "",
        "platform": site.effective.platform,
        "gpus": str(site.effective.resources.gpus),
    }
    return hashlib.sha256(to_json(said)).hexdigest()


def _earlier(kept: Path) -> StepResult | None:
    """The result that is kept there, if it is whole and unchanged."""
    try:
        data = json.loads((kept / "step.json").read_text(encoding="utf-8"))
        record = from_data(data["record"], StepRecord)
        outputs = {}
        for offer, entry in data["outputs"].items():
            volume = Volume(kept / entry["path"], entry["digest"])
            if path_digest(volume.path) != volume.digest:
                return None
            outputs[offer] = volume
    except (OSError, ValueError, KeyError, TypeError, InvalidEntityError):
        return None
    return StepResult(outputs, attrs.evolve(record, reused=True))
