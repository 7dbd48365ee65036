"""Run one job where it was brought to: ``python -m medperf_core.plugin.worker JOB OUT``.

JOB is a JSON file that holds a ``TaskJob``; OUT is a folder that gets ``events.jsonl`` while it runs and at the end
``outcome.json``, or ``error.json`` with the error's class, message and hint.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import attrs

from medperf_core.entities.codec import from_data, to_data
from medperf_core.errors import MedperfError
from medperf_core.plugin.context import BackendContext, CancelToken
from medperf_core.plugin.descriptors import RunnerPlugin
from medperf_core.plugin.events import Event
from medperf_core.plugin.executor import TaskJob
from medperf_core.plugin.isolation import Limit, Waiver, check_isolation
from medperf_core.plugin.manager import PluginManager
from medperf_core.plugin.runner import Resources, TaskOutcome
from medperf_core.plugin.settings import convert, fields_of


def needed_limits(resources: Resources, time_limit: float | None) -> tuple[Limit, ...]:
    """The limits that are asked for, which someone must be able to hold."""
    asked = {
        Limit.MEMORY: resources.memory,
        Limit.PROCESSES: resources.processes,
        Limit.CPU: resources.cpus,
        Limit.TIME: time_limit,
    }
    return tuple(limit for limit, value in asked.items() if value is not None)


def run_job(job: TaskJob, plugins: PluginManager, context: BackendContext) -> TaskOutcome:
    """Probe, verify and run a job on this machine.

    Raises:
        IsolationError: a guarantee is missing and was not waived.
        VerificationError: the image is not what was expected.
        MedperfError: whatever else keeps it from being run.
    """
    descriptor = plugins.get(RunnerPlugin, job.runner)
    fields = fields_of(descriptor.name, descriptor.settings)
    settings = {
        field.name: convert(field, job.settings[field.name], field.option)
        for field in fields
        if field.name in job.settings
    }
    runner = descriptor.make(descriptor.settings(**settings), context)
    capabilities = runner.capabilities()
    prepared = runner.prepare(job.source, job.expected)
    waivers = [Waiver.parse(text) for text in job.waivers]
    needed = check_isolation(
        capabilities, prepared.identities, waivers, needed_limits(job.request.resources, job.request.time_limit)
    )
    return runner.run(prepared, attrs.evolve(job.request, waivers=needed))


def _write(path: Path, data: object) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data), encoding="utf-8")
    temporary.replace(path)


def _teller(out: Path) -> Callable[[Event], None]:
    stream = (out / "events.jsonl").open("a", encoding="utf-8")

    def tell(event: Event) -> None:
        stream.write(json.dumps({"event": type(event).__name__, **to_data(event)}) + "\n")
        stream.flush()

    return tell


def main(arguments: list[str]) -> int:
    """Run the job of ``JOB OUT``; 0 if it was run, whatever the task's own exit code."""
    job_file, out = map(Path, arguments)
    out.mkdir(parents=True, exist_ok=True)
    temp = out / "temp"
    temp.mkdir(mode=0o700, exist_ok=True)
    cancel = CancelToken()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: cancel.cancel())
    try:
        job = from_data(json.loads(job_file.read_text(encoding="utf-8")), TaskJob)
        context = BackendContext(
            cache_dir=out / "cache",
            temp_dir=temp,
            offline=job.offline,
            proxies=job.proxies,
            ca_bundle=Path(job.ca_bundle) if job.ca_bundle else None,
            emit=_teller(out),
            cancel=cancel,
        )
        plugins = PluginManager.discover(environment=os.environ)
        _write(out / "outcome.json", to_data(run_job(job, plugins, context)))
    except Exception as error:
        hint = getattr(error, "hint", None)
        _write(out / "error.json", {"error": type(error).__name__, "message": str(error), "hint": hint})
        return error.exit_code if isinstance(error, MedperfError) else MedperfError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
