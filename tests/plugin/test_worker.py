"""A job as plain data: through the worker's own program, and through the local executor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from medperf_core.builtin._local_executor import LocalExecutor
from medperf_core.entities import CommandStyle, IdentityKind, ImageIdentity, ImageSource, SourceKind, TaskSpec
from medperf_core.entities.codec import from_data, to_data
from medperf_core.entities.roles import VolumeKind
from medperf_core.errors import CancelledError, IsolationError, NotFoundError, VerificationError
from medperf_core.plugin import BackendContext, Event, JobState, Mount, TaskJob, TaskLog, TaskOutcome, TaskRequest
from medperf_core.plugin.digest import source_digest
from medperf_core.plugin.manager import PluginManager
from medperf_core.plugin.worker import run_job


@pytest.fixture
def job(tmp_path: Path) -> TaskJob:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text("import sys\nprint('seen', open(sys.argv[1]).read())\n")
    (tmp_path / "input.txt").write_text("42")
    task = TaskSpec(
        name="infer", volumes=(), style=CommandStyle.MLCUBE, process_command=(sys.executable, "main.py", "{data}")
    )
    mount = Mount("data", tmp_path / "input.txt", VolumeKind.FILE, writable=False)
    return TaskJob(
        id="job1",
        runner="process",
        settings={},
        source=ImageSource(SourceKind.TREE, str(project)),
        expected=(ImageIdentity(IdentityKind.SOURCE, source_digest(project)),),
        request=TaskRequest(task=task, mounts=(mount,), log=tmp_path / "log"),
        waivers=("no-isolation",),
    )


def test_a_job_survives_as_json(job: TaskJob) -> None:
    assert from_data(json.loads(json.dumps(to_data(job))), TaskJob) == job


def worker(job: TaskJob, tmp_path: Path) -> tuple[int, Path]:
    (tmp_path / "job.json").write_text(json.dumps(to_data(job)))
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "medperf_core.plugin.worker", str(tmp_path / "job.json"), str(out)],
        cwd=tmp_path,
        check=False,
    )
    return done.returncode, out


def test_the_worker_verifies_and_runs(job: TaskJob, tmp_path: Path) -> None:
    code, out = worker(job, tmp_path)
    assert code == 0
    outcome = from_data(json.loads((out / "outcome.json").read_text()), TaskOutcome)
    assert (outcome.exit_code, outcome.tail, outcome.waivers) == (0, ("seen 42",), ("no-isolation",))
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert events == [{"event": "TaskLog", "task": "infer", "line": "seen 42"}]


def test_the_worker_refuses_another_image(job: TaskJob, tmp_path: Path) -> None:
    wrong = attrs.evolve(job, expected=(ImageIdentity(IdentityKind.SOURCE, "sha256:" + "0" * 64),))
    code, out = worker(wrong, tmp_path)
    assert code == VerificationError.exit_code
    assert json.loads((out / "error.json").read_text())["error"] == "VerificationError"
    assert not (out / "outcome.json").exists()


def test_the_worker_refuses_what_was_not_waived(job: TaskJob, tmp_path: Path) -> None:
    code, out = worker(attrs.evolve(job, waivers=()), tmp_path)
    assert code == IsolationError.exit_code
    assert "--allow no-isolation" in json.loads((out / "error.json").read_text())["message"]


def local(context: BackendContext) -> LocalExecutor:
    plugins = PluginManager.discover()
    return LocalExecutor(
        context, lambda job, emit, cancel: run_job(job, plugins, attrs.evolve(context, emit=emit, cancel=cancel))
    )


def test_the_local_executor_tells_events_and_the_outcome(job: TaskJob, context: BackendContext) -> None:
    executor = local(context)
    handle = executor.submit(job)
    assert [event.line for event in handle.events() if isinstance(event, TaskLog)] == ["seen 42"]
    assert handle.outcome().exit_code == 0
    assert handle.poll() is JobState.DONE
    assert executor.reattach("job1") is handle
    with pytest.raises(NotFoundError, match="job2"):
        executor.reattach("job2")


def test_the_local_executor_hands_errors_on(job: TaskJob, context: BackendContext) -> None:
    handle = local(context).submit(attrs.evolve(job, waivers=()))
    assert list(handle.events()) == []
    with pytest.raises(IsolationError):
        handle.outcome()


def test_a_cancelled_job_leaves_nothing(job: TaskJob, context: BackendContext) -> None:
    (Path(job.source.location) / "main.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    endless = attrs.evolve(job, expected=())
    handle = local(context).submit(endless)
    events: list[Event] = []
    for event in handle.events():
        events.append(event)
        handle.cancel()
    assert len(events) == 1
    with pytest.raises(CancelledError):
        handle.outcome()
