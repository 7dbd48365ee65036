"""Run one task of a local container: a container author's loop. Nothing is registered or sent."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from medperf_core.errors import UsageError
from medperf_core.journeys.containers import resolve
from medperf_core.journeys.tasks import build_mounts, check_outputs, execute, task_request
from medperf_core.plugin.runner import TaskOutcome
from medperf_core.site.site import Site


def run_container_task(
    site: Site,
    container: str,
    task: str,
    inputs: Mapping[str, Path],
    output: Path,
    *,
    show_command: Callable[[tuple[str, ...]], None] | None = None,
) -> TaskOutcome:
    """Run a task on given inputs.

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
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"The output folder {output} is not empty.", hint="Give a new one with --output.")
    ready = resolve(site, container)
    spec = ready.spec.task(task)
    offers = {volume.offer for volume in spec.volumes if not volume.writable}
    unknown = sorted(set(inputs) - offers)
    if unknown:
        raise UsageError(
            f"The task {task} has no input {unknown[0]!r}.", hint=f"It has: {', '.join(sorted(offers)) or 'none'}."
        )
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    staged = output.parent / f".{output.name}-{uuid.uuid4().hex[:8]}"
    staged.mkdir()
    try:
        mounts = build_mounts(ready, spec, {label: path.resolve() for label, path in inputs.items()}, staged / "out")
        if show_command is not None:
            show_command(site.runner.command_line(ready.image, task_request(site, spec, mounts)))
        outcome = execute(site, ready, spec, mounts)
        check_outputs(spec, mounts)
        (staged / "out").mkdir(exist_ok=True)
        if output.exists():
            output.rmdir()
        (staged / "out").rename(output)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return outcome
