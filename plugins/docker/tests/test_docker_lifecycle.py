"""Limits, ends of all kinds, and that nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import attrs
import pytest

from medperf_core.entities import CommandStyle, TaskSpec
from medperf_core.errors import CancelledError, ExecutionError
from medperf_core.plugin import Resources, TaskLog
from medperf_core.plugin.runner import TAIL_LINES


def test_a_failing_task_is_an_outcome(site: Any) -> None:
    outcome = site.run("seq 100; sleep 0.3; echo oh >&2; exit 7")
    assert outcome.exit_code == 7
    assert len(outcome.tail) == TAIL_LINES
    assert outcome.tail[-1] == "oh"
    assert (site.folder / "logs" / "task.log").read_text().splitlines()[:2] == ["1", "2"]
    assert outcome.log_bytes == (site.folder / "logs" / "task.log").stat().st_size
    assert [event.line for event in site.events if isinstance(event, TaskLog)][-1] == "oh"
    assert not outcome.timed_out and not outcome.out_of_memory


def test_the_outcome_says_what_ran(site: Any) -> None:
    resources = Resources(memory=64 << 20, cpus=1.5, processes=50)
    outcome = site.run("sleep 0.8", resources=resources, time_limit=30, waivers=("plain-http",))
    assert outcome.images == site.prepared.identities
    assert site.config(site.image) in outcome.images
    assert outcome.engine.split()[1]
    assert outcome.waivers == ("plain-http",)
    assert dict(outcome.limits) == {
        "memory": "engine 0.0625 GiB",
        "processes": "engine 50",
        "cpu": "engine 1.5",
        "time": "polled 30 s",
    }
    assert 0.7 < outcome.seconds < 10
    assert outcome.started.endswith("+00:00")
    assert outcome.peak_memory and outcome.peak_memory < 64 << 20


def test_memory_limit(site: Any) -> None:
    outcome = site.run("x=a; while true; do x=$x$x; done", resources=Resources(memory=32 << 20), time_limit=60)
    assert outcome.exit_code == 137
    assert outcome.out_of_memory
    assert not outcome.timed_out


def test_process_limit(site: Any) -> None:
    script = "n=0; for i in $(seq 60); do sleep 5 & done 2>/tmp/err; jobs | wc -l"
    outcome = site.run(script, resources=Resources(processes=20), time_limit=60)
    assert outcome.exit_code != 0 or int(outcome.tail[-1]) < 20
    assert site.run(script).tail[-1] == "60"


def test_time_limit_holds_for_a_chatty_task(site: Any) -> None:
    begun = time.monotonic()
    outcome = site.run("while true; do echo chatter; done", time_limit=1.5)
    assert outcome.timed_out
    assert outcome.exit_code == 137
    assert 1.5 <= outcome.seconds < 8
    assert time.monotonic() - begun < 15
    assert outcome.tail[-2] == "chatter"


def test_time_limit_holds_for_a_silent_task_that_ignores_signals(site: Any) -> None:
    outcome = site.run("trap '' TERM INT; sleep 60 & wait; sleep 60", time_limit=1)
    assert outcome.timed_out
    assert outcome.seconds < 6


def test_cancelling_stops_and_removes(site: Any) -> None:
    def when_begun() -> None:
        while not any(isinstance(event, TaskLog) for event in site.events):
            time.sleep(0.05)
        site.cancel.cancel()

    threading.Thread(target=when_begun, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        site.run("echo begun; sleep 60")
    assert time.monotonic() - begun < 20
    assert "begun" in (site.folder / "logs" / "task.log").read_text()
    assert site.containers() == []


def test_keyboard_interrupt_stops_and_removes(site: Any) -> None:
    runner, prepared, request = site.runner(), site.prepared, site.request("sleep 60")
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.run(prepared, request)
    finally:
        timer.cancel()
    assert site.containers() == []


def test_a_log_that_cannot_be_written_stops_the_task(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from medperf_core.plugin.tasklog import TaskLogWriter

    def full(self: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TaskLogWriter, "feed", full)
    with pytest.raises(ExecutionError, match="No space left"):
        site.run("echo x; sleep 60")


def test_a_missing_program_is_the_engines_error(site: Any) -> None:
    task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/no/such/program",))
    with pytest.raises(ExecutionError, match=r"/no/such/program") as caught:
        site.runner().run(site.prepared, site.request("", task=task))
    assert "does not have the program" in str(caught.value)


def test_an_image_without_a_command_is_the_engines_error(site: Any) -> None:
    with pytest.raises(ExecutionError, match=r"(?i)no command"):
        site.runner().run(site.prepared, site.request("", task=TaskSpec("infer", (), CommandStyle.FIXED)))


def test_gpus_that_are_not_there_are_an_error(site: Any) -> None:
    from medperf_core.plugin import Gpus

    with pytest.raises(ExecutionError, match="toolkit"):
        site.run("true", resources=Resources(gpus=Gpus.parse("all")))


def test_output_without_lines_and_of_any_bytes(site: Any) -> None:
    outcome = site.run(r"head -c 300000 /dev/zero | tr '\0' x; printf '\033[31m\377'")
    assert outcome.log_bytes == 300006
    assert all(char.isprintable() for char in outcome.tail[-1])


def test_orphans_are_collected(site: Any) -> None:
    outcome = site.run("for i in 1 2 3; do sh -c 'sleep 0.1 &'; done; sleep 1; ps -o stat | grep -c Z; true")
    assert outcome.tail[-1] == "0"


def test_only_image_ids_are_run(site: Any) -> None:
    prepared = attrs.evolve(site.prepared, reference=site.image)
    with pytest.raises(ExecutionError, match="not an image ID"):
        site.runner().run(prepared, site.request("true"))


def test_an_image_that_was_removed_is_told(site: Any) -> None:
    prepared = attrs.evolve(site.prepared, reference="sha256:" + "0" * 64)
    with pytest.raises(ExecutionError, match="no longer"):
        site.runner().run(prepared, site.request("true"))


def test_running_containers_can_be_found_and_doctor_shows_them(site: Any) -> None:
    found: list[Any] = []

    def look() -> None:
        found.extend(site.client.containers(filters={"ancestor": site.image, "label": "medperf=1"}))
        found.extend(check for check in site.runner().doctor() if check.name == "docker containers")

    threading.Timer(0.8, look).start()
    site.run("sleep 2")
    container, check = found
    assert container["Names"] == [f"/medperf-infer-{container['Labels']['medperf.run']}"]
    assert "docker rm" in check.advice


def test_two_tasks_at_once(site: Any) -> None:
    runner, prepared = site.runner(), site.prepared
    codes: dict[int, int] = {}

    def one(code: int) -> None:
        request = attrs.evolve(site.request(f"sleep 0.5; exit {code}"), log=site.folder / f"{code}.log")
        codes[code] = runner.run(prepared, request).exit_code

    threads = [threading.Thread(target=one, args=(code,)) for code in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {3: 3, 4: 4}


def test_the_command_line_does_the_same(site: Any) -> None:
    import subprocess

    data, output = site.path("in, put/data"), site.path("out")
    output.chmod(0o777)
    (data / "case").write_text("seen")
    request = site.request(
        # in one stream: two may overtake each other
        "exec 2>&1; id -u; cat /data/case; echo; touch /data/x /output/x; grep NoNewPrivs /proc/self/status; "
        "echo $ASKED$API_KEY",
        site.folder_mount("data", data),
        site.folder_mount("output", output, writable=True),
        environment={"ASKED": "a b", "API_KEY": "hidden"},
        resources=Resources(memory=64 << 20, cpus=1, processes=30, shm_size=1 << 20),
    )
    outcome = site.runner().run(site.prepared, request)
    command = list(site.runner().command_line(site.prepared, request))
    assert command == list(outcome.command)
    assert not any("hidden" in word for word in command)
    (output / "x").unlink()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "API_KEY": "hidden"})
    assert (done.stdout + done.stderr).splitlines() == list(outcome.tail), command
    assert (output / "x").exists()
