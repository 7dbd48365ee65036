"""The process runner on real programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import pytest

from medperf_core.builtin._process_runner import ProcessRunner
from medperf_core.entities import CommandStyle, IdentityKind, ImageIdentity, ImageSource, SourceKind, TaskSpec
from medperf_core.entities.roles import VolumeKind
from medperf_core.errors import CancelledError, ExecutionError, InvalidEntityError, VerificationError
from medperf_core.plugin import (
    BackendContext,
    Enforcement,
    Gpus,
    Limit,
    Mount,
    PreparedImage,
    Resources,
    TaskLog,
    TaskRequest,
)
from medperf_core.plugin.digest import source_digest


@pytest.fixture
def tree(tmp_path: Path) -> ImageSource:
    project = tmp_path / "project"
    project.mkdir()
    (project / "main.py").write_text("print('hello')\n")
    return ImageSource(SourceKind.TREE, str(project))


def request(tmp_path: Path, code: str, *arguments: str, **more: object) -> TaskRequest:
    command = (sys.executable, "-c", code, *arguments)
    task = TaskSpec(name="infer", volumes=(), style=CommandStyle.MLCUBE, process_command=command)
    return attrs.evolve(TaskRequest(task=task, mounts=(), log=tmp_path / "task.log"), **more)


def prepared(context: BackendContext, tree: ImageSource) -> tuple[ProcessRunner, PreparedImage]:
    runner = ProcessRunner(context)
    return runner, runner.prepare(tree)


def test_it_reports_the_identity_of_the_tree(context: BackendContext, tree: ImageSource) -> None:
    _, image = prepared(context, tree)
    assert image.identities == (ImageIdentity(IdentityKind.SOURCE, source_digest(Path(tree.location))),)
    assert image.reference != tree.location


def test_another_tree_than_expected_is_refused_and_not_kept(context: BackendContext, tree: ImageSource) -> None:
    wrong = ImageIdentity(IdentityKind.SOURCE, "sha256:" + "0" * 64)
    with pytest.raises(VerificationError, match="expected source:sha256:0000"):
        ProcessRunner(context).prepare(tree, [wrong])
    assert not list((context.cache_dir / "process").iterdir())


def test_an_identity_that_cannot_be_compared_is_refused(context: BackendContext, tree: ImageSource) -> None:
    config = ImageIdentity(IdentityKind.CONFIG, "sha256:" + "0" * 64)
    with pytest.raises(VerificationError, match="cannot be compared"):
        ProcessRunner(context).prepare(tree, [config])


def test_s6_what_was_compared_is_what_runs(context: BackendContext, tree: ImageSource, tmp_path: Path) -> None:
    runner, image = prepared(context, tree)
    (Path(tree.location) / "main.py").write_text("print('changed')\n")
    outcome = runner.run(image, request(tmp_path, "import main"))
    assert outcome.tail == ("hello",)


def test_a_copy_that_was_changed_is_not_run(context: BackendContext, tree: ImageSource, tmp_path: Path) -> None:
    runner, image = prepared(context, tree)
    (Path(image.reference) / "main.py").write_text("print('changed')\n")
    with pytest.raises(VerificationError, match="changed"):
        runner.run(image, request(tmp_path, "import main"))
    assert runner.prepare(tree).reference == image.reference
    assert runner.run(image, request(tmp_path, "import main")).tail == ("hello",)


def test_output_is_logged_told_and_kept(
    context: BackendContext, tree: ImageSource, tmp_path: Path, recorder: object
) -> None:
    runner, image = prepared(context, tree)
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr, flush=True); sys.exit(7)"
    outcome = runner.run(image, request(tmp_path, code))
    assert (outcome.exit_code, outcome.tail) == (7, ("out", "err"))
    assert (tmp_path / "task.log").read_text() == "out\nerr\n"
    assert [event.line for event in recorder.events if isinstance(event, TaskLog)] == ["out", "err"]  # type: ignore[attr-defined]


def test_placeholders_become_paths(context: BackendContext, tree: ImageSource, tmp_path: Path) -> None:
    runner, image = prepared(context, tree)
    data = tmp_path / "data, with: odd 'näme'"
    data.mkdir()
    asked = request(tmp_path, "import sys; print(sys.argv[1])", "--data={data_path}")
    asked = attrs.evolve(asked, mounts=(Mount("data_path", data, VolumeKind.DIRECTORY, writable=False),))
    assert runner.run(image, asked).tail == (f"--data={data}",)


def test_the_environment_is_clean(
    context: BackendContext, tree: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    runner, image = prepared(context, tree)
    outcome = runner.run(image, request(tmp_path, "import os; print(os.environ)", environment={"MORE": "yes"}))
    assert "hush" not in outcome.tail[0]
    assert "'MORE': 'yes'" in outcome.tail[0]


def test_b3_the_time_limit_is_total_even_for_a_chatty_program(
    context: BackendContext, tree: ImageSource, tmp_path: Path
) -> None:
    runner, image = prepared(context, tree)
    code = "import time\nwhile True: print('busy', flush=True); time.sleep(0.02)"
    outcome = runner.run(image, request(tmp_path, code, time_limit=0.5))
    assert outcome.timed_out
    assert outcome.seconds < 5


def test_memory_beyond_the_limit_ends_it(context: BackendContext, tree: ImageSource, tmp_path: Path) -> None:
    runner, image = prepared(context, tree)
    code = "import time; x = bytearray(300 << 20); time.sleep(20)"
    outcome = runner.run(image, request(tmp_path, code, resources=Resources(memory=100 << 20)))
    assert outcome.out_of_memory
    assert outcome.peak_memory is not None and outcome.peak_memory > 100 << 20
    assert outcome.seconds < 10


def test_processors_beyond_the_limit_slow_it_but_end_nothing(
    context: BackendContext, tree: ImageSource, tmp_path: Path
) -> None:
    runner, image = prepared(context, tree)
    assert runner.capabilities().limits[Limit.CPU] is Enforcement.POLLED
    code = "import time\nwhile time.process_time() < 1: pass\nprint('done')"
    outcome = runner.run(image, request(tmp_path, code, resources=Resources(cpus=0.5)))
    assert (outcome.exit_code, outcome.tail) == (0, ("done",))
    assert outcome.limits["cpu"] == "polled 0.5"
    assert outcome.seconds > 1.2


SPAWNER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""

HIDER = """
import subprocess, sys, time
leaf = "import time; print(__import__('os').getpid(), flush=True); time.sleep(60)"
middle = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {leaf!r}], env={{}}, "
middle += "start_new_session=True); time.sleep(60)"
between = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {middle!r}], start_new_session=True)"
subprocess.run([sys.executable, "-c", between])
time.sleep(60)
"""
"""Its last process is in a session of its own, without the task's marker, below one whose own parent has ended."""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("code", [SPAWNER, HIDER], ids=["in another session", "hidden below another"])
def test_cancelling_leaves_no_process(
    context: BackendContext, tree: ImageSource, tmp_path: Path, recorder: object, code: str
) -> None:
    runner, image = prepared(context, tree)

    def cancel() -> None:
        while not recorder.events:  # type: ignore[attr-defined]
            time.sleep(0.02)
        context.cancel.cancel()

    threading.Thread(target=cancel).start()
    with pytest.raises(CancelledError):
        runner.run(image, request(tmp_path, code))
    (pid,) = [int(event.line) for event in recorder.events]  # type: ignore[attr-defined]
    assert not alive(pid)


def test_a_signal_is_told_as_the_shell_tells_it(context: BackendContext, tree: ImageSource, tmp_path: Path) -> None:
    runner, image = prepared(context, tree)
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    assert runner.run(image, request(tmp_path, code)).exit_code == 128 + signal.SIGSEGV


def test_a_program_that_is_not_there_is_an_error_that_names_it(
    context: BackendContext, tree: ImageSource, tmp_path: Path
) -> None:
    runner, image = prepared(context, tree)
    asked = request(tmp_path, "")
    task = attrs.evolve(asked.task, process_command=("no-such-program",))
    with pytest.raises(ExecutionError, match="no-such-program"):
        runner.run(image, attrs.evolve(asked, task=task))


def test_a_task_without_a_process_command_says_what_to_add(
    context: BackendContext, tree: ImageSource, tmp_path: Path
) -> None:
    runner, image = prepared(context, tree)
    asked = request(tmp_path, "")
    with pytest.raises(InvalidEntityError, match=r"process\.tasks\.infer"):
        runner.run(image, attrs.evolve(asked, task=attrs.evolve(asked.task, process_command=())))


@pytest.mark.parametrize(("asked", "seen"), [("none", "''"), ("2", "'0,1'"), ("device=1,3", "'1,3'"), ("all", "None")])
def test_gpus_are_chosen_by_variable(
    context: BackendContext, tree: ImageSource, tmp_path: Path, asked: str, seen: str
) -> None:
    runner, image = prepared(context, tree)
    code = "import os; print(repr(os.environ.get('CUDA_VISIBLE_DEVICES')))"
    outcome = runner.run(image, request(tmp_path, code, resources=Resources(gpus=Gpus.parse(asked))))
    assert outcome.tail == (seen,)


def test_a_log_without_end_is_cut(
    context: BackendContext, tree: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medperf_core.plugin.tasklog.TaskLogWriter.__init__.__defaults__", (1000,))
    runner, image = prepared(context, tree)
    outcome = runner.run(image, request(tmp_path, "print('x' * 100_000)"))
    assert outcome.log_truncated
    assert (tmp_path / "task.log").stat().st_size == 1000
    assert outcome.log_bytes == 100_001


CLIENT = """
import sys
from pathlib import Path
from medperf_core.builtin._process_runner import ProcessRunner
from medperf_core.entities import *
from medperf_core.plugin import *
home = Path({home!r})
(home / "temp").mkdir(parents=True)
context = BackendContext(cache_dir=home, temp_dir=home / "temp", emit=lambda event: print(event.line, flush=True))
runner = ProcessRunner(context)
task = TaskSpec(name="infer", volumes=(), style="mlcube", process_command=(sys.executable, "main.py"))
image = runner.prepare(ImageSource("tree", {project!r}))
runner.run(image, TaskRequest(task=task, mounts=(), log=home / "log"))
"""


def test_killing_the_client_politely_ends_the_task(tree: ImageSource, tmp_path: Path) -> None:
    """A client that is told to stop (SIGINT) leaves no task behind."""
    (Path(tree.location) / "main.py").write_text(SPAWNER)
    script = CLIENT.format(home=str(tmp_path / "client"), project=tree.location)
    client = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    os.kill(client.pid, signal.SIGINT)
    client.wait(timeout=15)
    assert not alive(pid)
    assert not list((tmp_path / "client" / "temp").iterdir())


def test_what_a_killed_client_left_running_is_ended_by_the_next(
    context: BackendContext, tree: ImageSource, tmp_path: Path
) -> None:
    (Path(tree.location) / "main.py").write_text(SPAWNER)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT.format(home=str(tmp_path / "client"), project=tree.location)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    client.kill()
    client.wait()
    assert alive(pid)
    ProcessRunner(context).prepare(tree)
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)
