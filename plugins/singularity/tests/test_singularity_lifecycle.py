"""Ends of all kinds, what Docker means by an image's settings, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import pytest
from medperf_singularity import guard, leftovers
from medperf_singularity.config import RUNSCRIPT, ImageConfig

from medperf_core.entities import CommandStyle, TaskSpec
from medperf_core.errors import CancelledError, ExecutionError
from medperf_core.plugin import Resources, TaskLog
from medperf_core.plugin.runner import TAIL_LINES


def of_the_engine(mark: str) -> list[int]:
    """Processes of tasks that sleep for this many seconds."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for(what: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return what()


def nothing_left(tasks: Any, mark: str) -> bool:
    return (
        not of_the_engine(mark) and not list(leftovers.forgotten()) and not list((tasks.folder / "tmp").glob("*/run-*"))
    )


@contextmanager
def program(work: Callable[[], Any]) -> Iterator[None]:
    """Another program that does this; it is killed at the end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def no_control_groups_of_the_dead() -> bool:
    leftovers.remove_control_groups()
    groups = Path("/sys/fs/cgroup").glob("*/apptainer/[0-9]*")
    return os.geteuid() != 0 or all(Path("/proc", group.name).exists() for group in groups)


def test_a_failing_task_is_an_outcome(tasks: Any) -> None:
    def work() -> None:
        outcome = tasks.run("seq 100; sleep 0.3; echo oh >&2; exit 7")
        assert outcome.exit_code == 7
        assert len(outcome.tail) == TAIL_LINES
        assert outcome.tail[-1] == "oh"
        assert tasks.log.splitlines()[:2] == ["1", "2"]
        assert outcome.log_bytes == len(tasks.log)
        assert [event.line for event in tasks.events if isinstance(event, TaskLog)][-1] == "oh"
        assert not outcome.timed_out and not outcome.out_of_memory

    tasks.do(work)


def test_a_signal_is_told_as_docker_tells_it(tasks: Any) -> None:
    tasks.do(lambda: _check_signal(tasks))


def _check_signal(tasks: Any) -> None:
    outcome = tasks.run("kill -SEGV $$")
    assert outcome.exit_code == 128 + signal.SIGSEGV


def test_the_images_folder_entrypoint_and_arguments(tasks: Any) -> None:
    def work() -> None:
        hostile = ("$(id)", "a b", "", "*", "--nv", "new\nline", "'", '"')
        show = 'pwd; for a in "$@"; do printf "<%s>" "$a"; done'
        tasks.config = ImageConfig(("/bin/sh", "-c", show, "x"), hostile, {"PATH": "/bin"}, "/data", "nobody")
        bare = TaskSpec("infer", (), CommandStyle.FIXED)
        tasks.run_request(tasks.request("", task=bare))
        assert tasks.log == "/data\n" + "".join(f"<{word}>" for word in hostile)
        tasks.run_request(tasks.request("", task=attrs.evolve(bare, command=("one",))))
        assert tasks.log == "/data\n<one>"
        entrypoint = attrs.evolve(bare, entrypoint=("/bin/echo", "mine"))
        outcome = tasks.run_request(attrs.evolve(tasks.request("", task=entrypoint), working_dir="/etc"))
        assert outcome.tail == ("mine",)
        assert tasks.run_request(attrs.evolve(tasks.request("pwd"), working_dir="/etc")).tail == ("/etc",)
        tasks.config = ImageConfig(("sh", "-c", "echo found by PATH"), (), {"PATH": "/nowhere:/bin"})
        assert tasks.run_request(tasks.request("", task=bare)).tail == ("found by PATH",)

    tasks.do(work)


def test_an_image_made_for_this_engine_keeps_its_own_scripts(tasks: Any) -> None:
    def work() -> None:
        tasks.config = ImageConfig((RUNSCRIPT,))
        task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/bin/sh", "-c", "echo $OF_SCRIPT $BOTH $HOME"))
        request = tasks.request("", task=task, environment={"BOTH": "core"})
        assert tasks.run_request(request).tail == ("image core /tmp",)
        tasks.config = ImageConfig(("/bin/sh",))
        assert tasks.run_request(request).tail == ("core /tmp",)

    tasks.do(work)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/no/such/program",))}, "/no/such/program"),
        ({"task": TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("no-such-program",))}, "no-such-program"),
        ({"task": TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/etc/passwd",))}, "cannot be executed"),
        ({"task": TaskSpec("infer", (), CommandStyle.FIXED)}, "no command"),
        ({"working_dir": "/no/such/folder"}, "cannot start in /no/such/folder"),
    ],
)
def test_a_task_that_cannot_be_started_is_an_error(tasks: Any, change: dict[str, Any], words: str) -> None:
    def work() -> None:
        with pytest.raises(ExecutionError, match=words) as caught:
            tasks.run_request(tasks.request("true", **change))
        assert caught.value.hint

    tasks.do(work)


def test_an_image_that_is_gone_or_no_image_is_told(tasks: Any) -> None:
    def work() -> None:
        tasks.image = tasks.folder / "gone.sif"
        with pytest.raises(ExecutionError, match="no longer there"):
            tasks.run("true")
        tasks.image.write_bytes(b"no image")
        with pytest.raises(ExecutionError, match="could not start"):
            tasks.run("true")

    tasks.do(work)


def test_the_time_limit_holds_for_a_silent_task_that_ignores_signals(tasks: Any) -> None:
    def work() -> None:
        mark = f"6{os.getpid()}"
        outcome = tasks.run(
            f"trap '' TERM INT; (setsid sleep {mark} &); sleep {mark} & wait; sleep {mark}", time_limit=1
        )
        assert outcome.timed_out and outcome.exit_code > 128
        assert not outcome.out_of_memory
        assert nothing_left(tasks, mark)
        assert wait_for(no_control_groups_of_the_dead)

    tasks.do(work)


def test_cancelling_leaves_nothing(tasks: Any) -> None:
    def work() -> None:
        def when_begun() -> None:
            wait_for(lambda: any(isinstance(event, TaskLog) for event in tasks.events))
            tasks.cancel.cancel()

        mark = f"7{os.getpid()}"
        threading.Thread(target=when_begun, daemon=True).start()
        with pytest.raises(CancelledError):
            tasks.run(f"echo begun; (setsid sleep {mark} &); sleep {mark}")
        assert tasks.log == "begun\n"
        assert nothing_left(tasks, mark)

    tasks.do(work)


def test_a_cancelled_task_is_not_started(tasks: Any) -> None:
    tasks.cancel.cancel()
    with pytest.raises(CancelledError):
        tasks.run("true")


def test_an_interrupted_program_leaves_nothing(tasks: Any) -> None:
    def work() -> None:
        mark = f"8{os.getpid()}"
        signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                tasks.run(f"sleep {mark}")
        finally:
            timer.cancel()
        assert nothing_left(tasks, mark)

    tasks.do(work)


def test_a_killed_program_leaves_nothing_running(tasks: Any) -> None:
    """Even SIGKILL, which no program can answer, ends the task; the rest goes when the next program starts."""

    def work() -> None:
        mark = f"9{os.getpid()}"
        with program(lambda: tasks.run(f"(setsid sleep {mark} &); sleep {mark}")):
            assert wait_for(lambda: len(of_the_engine(mark)) >= 2), "it did not begin"
        assert wait_for(lambda: not of_the_engine(mark)), "the task outlived the program that started it"
        leftovers.clean(tasks.context)
        assert wait_for(lambda: not list(leftovers.forgotten()))
        assert wait_for(lambda: nothing_left(tasks, mark))
        assert wait_for(no_control_groups_of_the_dead)

    tasks.do(work)


def test_orphans_of_a_program_that_was_killed_are_found_by_the_next(tasks: Any) -> None:
    """For a guard that was killed too."""

    def work() -> None:
        mark = f"5{os.getpid()}"

        def run() -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(guard, "guarded", lambda folder: nullcontext())
                tasks.run(f"sleep {mark}")

        with program(run):
            assert wait_for(lambda: len(of_the_engine(mark)) >= 1), "it did not begin"
        assert of_the_engine(mark)
        leftovers.clean(tasks.context)
        assert wait_for(lambda: not of_the_engine(mark))
        leftovers.clean(tasks.context)
        assert nothing_left(tasks, mark)

    tasks.do(work)


def test_orphans_are_collected_while_a_task_runs(tasks: Any) -> None:
    def work() -> None:
        outcome = tasks.run("for i in 1 2 3; do sh -c 'sleep 0.1 &'; done; sleep 1; ps -o stat | grep -c Z; true")
        assert outcome.tail[-1] == "0"

    tasks.do(work)


def test_output_without_lines_and_of_any_bytes(tasks: Any) -> None:
    def work() -> None:
        outcome = tasks.run(r"head -c 300000 /dev/zero | tr '\0' x; printf '\033[31m\377'")
        assert outcome.log_bytes == 300006
        assert all(char.isprintable() for char in outcome.tail[-1])

    tasks.do(work)


def test_two_tasks_at_once(tasks: Any) -> None:
    def work() -> None:
        codes: dict[int, int] = {}

        def one(code: int) -> None:
            request = attrs.evolve(tasks.request(f"sleep 0.5; exit {code}"), log=tasks.folder / f"{code}.log")
            codes[code] = tasks.run_request(request).exit_code

        threads = [threading.Thread(target=one, args=(code,)) for code in (3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == {3: 3, 4: 4}

    tasks.do(work)


def test_the_command_of_the_record_does_the_same(tasks: Any) -> None:
    def work() -> None:
        data, output = tasks.path("in, put/da:ta"), tasks.path("out")
        output.chmod(0o777)
        (data / "case").write_text("seen")
        request = tasks.request(
            "id -u; cat /data/case; echo; touch /data/x /output/x; grep NoNewPrivs /proc/self/status; echo $ASKED; pwd",
            tasks.mount("data", data),
            tasks.mount("output", output, writable=True),
            environment={"ASKED": "a $(id) b", "API_KEY": "hidden"},
            resources=Resources(memory=128 << 20, cpus=1, processes=30, shm_size=1 << 20),
        )
        outcome = tasks.run_request(request)
        (output / "x").unlink()
        done = subprocess.run(list(outcome.command), capture_output=True, text=True, env={**os.environ, "LANG": "C"})
        assert sorted((done.stdout + done.stderr).splitlines()) == sorted(outcome.tail), outcome.command
        assert (output / "x").exists()
        kept = [path for path in (tasks.folder / "cache").rglob("*") if path.is_file()]
        assert not any("hidden" in word for word in outcome.command)
        assert not any(b"hidden" in path.read_bytes() for path in kept)

    tasks.do(work)


def test_starting_costs_no_interpreter(tasks: Any) -> None:
    """What runs before the engine is a shell and the system's own tools."""

    def work() -> None:
        words = tasks.run("true").command
        assert not any(sys.executable in word for word in words)

    tasks.do(work)
