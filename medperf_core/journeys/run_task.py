"""Run one task of a local container: a container author's loop. Nothing is registered or sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from medperf_core.entities import TaskSpec
from medperf_core.entities.roles import ADDITIONAL_FILES, PARAMETERS
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.containers import ReadyContainer, is_uid, read_local, resolve
from medperf_core.journeys.tasks import NOTHING, build_mounts, check_outputs, execute, permit_run, task_request
from medperf_core.plugin.runner import Mount, TaskOutcome
from medperf_core.site.folders import make_folder
from medperf_core.site.site import Site

NO_DATA = frozenset({PARAMETERS, ADDITIONAL_FILES})
"""Inputs that belong to a container. All others are, or may be made from, patients' data."""


def run_container_task(
    site: Site,
    container: str,
    task: str,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    show_command: Callable[[tuple[str, ...]], None] | None = None,
) -> TaskOutcome:
    """Run a task on given inputs. These, and what it makes of them, count as data from then on.

    Args:
        container: a path (or a UID).
        task: its name, such as ``infer``.
        inputs: paths by volume, such as ``data_path``.
        output: folder that gets a file or folder for each output; it must not exist yet or be empty.
        show_command: is given the exact engine command before it runs.

    Raises:
        UsageError: the output folder is in use, or an input names no volume of the task.
        ExecutionError: the task failed.
    """
    output = output.absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"The output folder {output} is not empty.", hint="Give a new one with --output.")
    if not is_uid(container):
        _check_names(read_local(site, Path(container)).spec.task(task), inputs)
    ready = resolve(site, container)
    spec = ready.spec.task(task)
    _check_names(spec, inputs)
    permit_run(site, ready, task, None)
    make_folder(output, f"The output folder {output}")
    try:
        data = [path for label, path in inputs.items() if label not in NO_DATA]
        site.data_folders.remember([*data, output] if data else [])
        mounts = _mounts(ready, spec, {label: path.resolve() for label, path in inputs.items()}, output)
        if show_command is not None:
            show_command(site.runner.command_line(ready.image, task_request(site, spec, mounts)))
        outcome = execute(site, ready, spec, mounts)
        check_outputs(spec, mounts)
        shutil.rmtree(output / NOTHING, ignore_errors=True)
        site.data_folders.remember(output.iterdir() if data else [])  # each by itself: one may be moved elsewhere
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # it was empty or not there before
        raise
    return outcome


def _mounts(ready: ReadyContainer, spec: TaskSpec, inputs: Mapping[str, Path], output: Path) -> tuple[Mount, ...]:
    try:
        return build_mounts(ready, spec, inputs, output)
    except InvalidEntityError as error:
        hint = "What a task reads is given with --input LABEL=PATH."
        raise InvalidEntityError(error.message, problems=error.problems, hint=hint) from error


def _check_names(spec: TaskSpec, inputs: Mapping[str, Path]) -> None:
    offers = {volume.offer for volume in spec.volumes if not volume.writable}
    unknown = sorted(set(inputs) - offers)
    if unknown:
        raise UsageError(
            f"The task {spec.name} has no input {unknown[0]!r}.",
            hint=f"It has: {', '.join(sorted(offers)) or 'none'}.",
        )
