"""Limits, by control groups for root and by watching for others."""

from __future__ import annotations

import os
from typing import Any

import pytest

from medperf_core.plugin import Gpus, Resources


def test_the_outcome_says_what_held(tasks: Any) -> None:
    def work() -> None:
        resources = Resources(memory=128 << 20, cpus=1.5, processes=50)
        outcome = tasks.run("sleep 0.5", resources=resources, time_limit=30, waivers=("plain-http",))
        who = "engine" if os.geteuid() == 0 else "polled"
        assert dict(outcome.limits) == {
            "memory": f"{who} 0.125 GiB",
            "processes": f"{who} 50",
            "cpu": f"{who} 1.5",
            "time": "polled 30 s",
        }
        assert outcome.engine == tasks.engine.words
        assert outcome.images == tasks.prepared.identities
        assert outcome.waivers == ("plain-http",)
        assert outcome.seconds >= 0.5
        assert outcome.started.endswith("+00:00")
        assert outcome.peak_memory and outcome.peak_memory < 128 << 20

    tasks.do(work)


def test_memory_limit(tasks: Any) -> None:
    def work() -> None:
        outcome = tasks.run("x=a; while true; do x=$x$x; done", resources=Resources(memory=96 << 20), time_limit=60)
        assert outcome.out_of_memory and not outcome.timed_out
        assert outcome.exit_code > 128

    tasks.do(work)


def test_memory_of_a_process_that_left_its_group_counts(tasks: Any) -> None:
    def work() -> None:
        eat = "x=a; while true; do x=$x$x; done"
        script = f"setsid sh -c '{eat}' & wait $!; echo $?"
        outcome = tasks.run(script, resources=Resources(memory=96 << 20), time_limit=60)
        assert outcome.out_of_memory or outcome.tail[-1] == "137"

    tasks.do(work)


def test_a_fork_bomb_stays_within_its_number(tasks: Any) -> None:
    def work() -> None:
        script = "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1; while true; do :; done"
        outcome = tasks.run(script, resources=Resources(processes=40, cpus=0.5), time_limit=4)
        assert outcome.timed_out or outcome.too_many_processes
        assert tasks.run("echo well").tail == ("well",)

    tasks.do(work)


def test_fewer_processes_than_the_limit_work(tasks: Any) -> None:
    def work() -> None:
        script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5 & done; wait; echo done"
        assert tasks.run(script, resources=Resources(processes=10)).tail == ("done",)

    tasks.do(work)


def test_time_limit_holds_for_a_chatty_task(tasks: Any) -> None:
    def work() -> None:
        outcome = tasks.run("while true; do echo chatter; done", time_limit=1.5)
        assert outcome.timed_out
        assert outcome.exit_code > 128
        assert outcome.tail[-2] == "chatter"

    tasks.do(work)


def test_more_processors_than_there_are(tasks: Any) -> None:
    tasks.do(lambda: _check_many_processors(tasks))


def _check_many_processors(tasks: Any) -> None:
    assert tasks.run("echo ran", resources=Resources(cpus=1000)).tail == ("ran",)


def test_gpus_that_are_not_there_are_an_error(tasks: Any) -> None:
    from medperf_core.errors import ExecutionError

    with pytest.raises(ExecutionError, match="GPUs"):
        tasks.run("true", resources=Resources(gpus=Gpus.parse("all")))


def test_another_account_for_root(tasks: Any) -> None:
    def work() -> None:
        if os.geteuid() == 0:
            output = tasks.path("out")
            outcome = tasks.run(
                "id -u; id -g; touch /out/x", tasks.mount("out", output, writable=True), user="4321:1234"
            )
            assert outcome.tail == ("4321", "1234")
            assert (output / "x").stat().st_uid == 0

    tasks.do(work)
