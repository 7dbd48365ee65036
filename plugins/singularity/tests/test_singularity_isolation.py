"""What a task can see and do, asked from inside a real container, as root and as an unprivileged account."""

from __future__ import annotations

import os
from typing import Any

import pytest
from medperf_singularity import probe
from medperf_singularity.config import ImageConfig

from medperf_core.plugin import Condition, Enforcement, Guarantee, Limit, Notice, Resources


def lines(tasks: Any, script: str, *mounts: Any, **changes: Any) -> list[str]:
    outcome = tasks.run(script, *mounts, **changes)
    assert outcome.exit_code == 0, outcome.tail
    return list(outcome.tail)


def test_a_process_has_no_privileges(tasks: Any) -> None:
    def work() -> None:
        seen = lines(tasks, "grep -E '^(Cap|NoNew|Seccomp:|Uid|Gid|Groups)' /proc/self/status")
        status = {name: value.split() for name, _, value in (line.partition(":") for line in seen)}
        assert {status[f"Cap{name}"][0] for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
        own = ("65534", "65534") if os.geteuid() == 0 else (str(os.geteuid()), str(os.getegid()))
        assert (set(status["Uid"]), set(status["Gid"])) == ({own[0]}, {own[1]})
        assert "0" not in status["Groups"]

    tasks.do(work)


def test_the_root_file_system_cannot_be_written(tasks: Any) -> None:
    def work() -> None:
        script = "for p in /x /etc/x /bin/x /data/x /var/tmp/x /root/x /home/x /sys/x; do touch $p 2>&1; done; true"
        for line in lines(tasks, script):
            assert "Read-only file system" in line or "No such file" in line or "Permission denied" in line
        assert sum("Read-only" in line for line in lines(tasks, script)) >= 5

    tasks.do(work)


def test_nothing_of_this_machine_is_mounted(tasks: Any) -> None:
    def work() -> None:
        seen = set(lines(tasks, "cut -d' ' -f5 /proc/self/mountinfo"))
        engines = {"/", "/proc", "/tmp", "/etc/hostname"}
        engines |= {"/.singularity.d/env", "/sys/devices/system/cpu", "/sys/devices/system/node"}
        assert {place for place in seen if not place.startswith("/dev")} <= engines
        devices = set(lines(tasks, "cd /dev; echo *; ls -d /dev/*")[0].split())
        links = {"fd", "ptmx", "stdin", "stdout", "stderr"}
        assert devices - links == {"mqueue", "null", "pts", "random", "shm", "tty", "urandom", "zero"}
        assert lines(tasks, "hostname") == ["medperf"]

    tasks.do(work)


@pytest.mark.parametrize("size", [16 << 20, 100 << 20])
def test_its_own_tmp_takes_programs_and_has_a_size(tasks: Any, size: int) -> None:
    def work() -> None:
        script = """cp /bin/busybox /tmp/busybox && /tmp/busybox echo ran
            dd if=/dev/zero of=/tmp/big bs=1M count=150 2>/dev/null
            stat -c %s /tmp/big; rm /tmp/big; dd if=/dev/zero of=/dev/shm/big bs=1M count=150 2>/dev/null
            stat -c %s /dev/shm/big"""
        ran, filled, shared = lines(tasks, script, resources=Resources(tmp_size=size, memory=1 << 30))
        assert ran == "ran"
        assert size // 2 < int(filled) < size
        assert int(shared) <= max(size, 64 << 20)

    tasks.do(work)


def test_shared_memory_of_the_asked_size(tasks: Any) -> None:
    def work() -> None:
        script = "dd if=/dev/zero of=/dev/shm/big bs=1M count=200 2>/dev/null; stat -c %s /dev/shm/big"
        resources = Resources(tmp_size=8 << 20, shm_size=120 << 20, memory=1 << 30)
        size = int(lines(tasks, script, resources=resources)[0])
        assert 119 << 20 <= size <= 128 << 20

    tasks.do(work)


def test_the_environment_is_the_images_the_manifests_and_the_cores(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "a,b: $(id) `id` \"q\" 's' \\ %s $HOME *\nnew line\n\nünï "
    for name in ("OF_THE_HOST", "APPTAINERENV_INJECTED", "SINGULARITYENV_INJECTED", "APPTAINER_NV"):
        monkeypatch.setenv(name, "1")
    for name in ("APPTAINER_BIND", "APPTAINER_BINDPATH", "SINGULARITY_BIND"):
        monkeypatch.setenv(name, "/etc:/mnt")

    def work() -> None:
        tasks.config = ImageConfig(env={"PATH": "/bin", "OF_IMAGE": hostile, "EMPTY": "", "BOTH": "image"})
        seen = tasks.run("tr '\\0' '\\1' </proc/self/environ; ls /mnt", environment={"ASKED": hostile, "BOTH": "core"})
        assert seen.exit_code == 0, seen.tail
        found = dict(part.partition("=")[::2] for part in tasks.log.split("\1") if "=" in part)
        assert found["ASKED"] == found["OF_IMAGE"] == hostile
        assert (found["HOME"], found["PATH"], found["BOTH"], found["EMPTY"]) == ("/tmp", "/bin", "core", "")
        engines = {name for name in found if name.startswith(("APPTAINER_", "SINGULARITY_", "PS1", "PROMPT_COMMAND"))}
        assert set(found) - engines <= {"ASKED", "OF_IMAGE", "HOME", "PATH", "BOTH", "EMPTY", "PWD", "SHLVL"}
        assert not engines & {"APPTAINER_NV", "APPTAINER_BIND", "SINGULARITY_BIND"}
        assert "passwd" not in tasks.log

    tasks.do(work)


def test_s16_a_tasks_variables_reach_neither_the_caller_nor_the_next_task(
    tasks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SINGULARITYENV_OF_CALLER", "APPTAINERENV_OF_CALLER", "SINGULARITYENV_LD_PRELOAD"):
        monkeypatch.setenv(name, "hush")

    def work() -> None:
        before = dict(os.environ)
        assert lines(tasks, "echo $SECRET_OF_ONE", environment={"SECRET_OF_ONE": "hush"}) == ["hush"]
        assert dict(os.environ) == before
        assert not [line for line in lines(tasks, "env; echo end") if "hush" in line or "ENV_" in line]

    tasks.do(work)


def test_variables_that_cannot_be_set_are_told(tasks: Any) -> None:
    def work() -> None:
        assert lines(tasks, "echo $A", environment={"A": "1", "a.b": "2", "UID": "0", "PS1": "x"}) == ["1"]
        told = [str(event.message) for event in tasks.events if isinstance(event, Notice)]
        assert any("a.b, UID, PS1" in words for words in told)

    tasks.do(work)


def test_no_core_dumps(tasks: Any) -> None:
    tasks.do(lambda: _check_cores(tasks))


def _check_cores(tasks: Any) -> None:
    assert lines(tasks, "ulimit -Sc; ulimit -Hc") == ["0", "0"]


def test_what_is_found_here_is_every_guarantee(tasks: Any) -> None:
    def work() -> None:
        found = probe.capabilities(tasks.engine, tasks.settings, tasks.context)
        assert found.guarantees == set(Guarantee)
        root = os.geteuid() == 0
        held = Enforcement.ENGINE if root else Enforcement.POLLED
        assert {found.limits[limit] for limit in (Limit.MEMORY, Limit.PROCESSES, Limit.CPU)} == {held}
        assert found.conditions == set(Condition) - (set() if root else {Condition.USER})
        assert found.engine.split()[0] in ("apptainer", "singularity")
        assert not found.gpus

    tasks.do(work)


def test_running_as_root_of_the_host_is_no_guarantee(tasks: Any) -> None:
    def work() -> None:
        if os.geteuid() == 0:
            settings = type(tasks.settings)(run_as="0:0")
            found = probe.capabilities(tasks.engine, settings, tasks.context)
            assert set(Guarantee) - found.guarantees == {Guarantee.PRIVILEGES}

    tasks.do(work)
