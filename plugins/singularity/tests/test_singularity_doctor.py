"""What ``medperf doctor`` shows, here and where something is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from medperf_singularity import doctor, probe
from medperf_singularity.engine import find_engine
from medperf_singularity.plugin import SingularitySettings

from medperf_core.errors import ExecutionError, IsolationError
from medperf_core.plugin import BackendContext, Guarantee, Health, Limit


def test_all_is_well_here(tasks: Any) -> None:
    def work() -> None:
        found = {check.name: check for check in doctor.checks(tasks.settings, tasks.context)}
        assert tasks.engine.words in found["singularity engine"].found
        for name in ("engine", "user namespaces", "network", "privileges", "mounts", "read-only-inputs", "gpus"):
            assert found[f"singularity {name}"].health is Health.OK, found[f"singularity {name}"]
        assert {f"singularity {name}" for name in ("fakeroot", "image files", "limits", "cache")} < set(found)
        assert "GiB free" in found["singularity temporary files"].found
        assert all(check.advice for check in found.values() if check.health is not Health.OK)

    tasks.do(work)


def test_no_engine_is_told_with_what_to_do(tmp_path: Path) -> None:
    settings = SingularitySettings(program=str(tmp_path / "none"))
    (check,) = doctor.checks(settings, BackendContext(tmp_path, tmp_path))
    assert check.health is Health.FAILED and "Install" in check.advice


def engine_that(folder: Path, words: str) -> SingularitySettings:
    """Settings for a program that tells a version and does this instead of starting a container."""
    program = folder / "apptainer"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && {{ echo apptainer version 1.3.0; exit 0; }}\n{words}\n')
    program.chmod(0o755)
    return SingularitySettings(program=str(program))


def test_an_engine_that_starts_nothing_is_told_in_its_own_words(tmp_path: Path) -> None:
    settings = engine_that(tmp_path, "echo 'FATAL:   no user namespaces for you' >&2; exit 255")
    context = BackendContext(tmp_path / "cache", tmp_path / "tmp")
    found = {check.name: check for check in doctor.checks(settings, context)}
    assert found["singularity containers"].health is Health.FAILED
    assert "no user namespaces for you" in found["singularity containers"].found
    assert "user.max_user_namespaces" in found["singularity containers"].advice
    with pytest.raises(ExecutionError, match="no user namespaces for you"):
        probe.capabilities(find_engine(settings), settings, context)


def test_an_engine_without_network_isolation_lacks_that_guarantee(tmp_path: Path, tasks: Any) -> None:
    def work() -> None:
        real = tasks.engine.program
        refusing = (
            f'case " $* " in *" --net "*) echo "FATAL: no network for you" >&2; exit 255;; esac; exec {real} "$@"'
        )
        settings = engine_that(tasks.folder, refusing)
        engine = find_engine(settings)
        found = probe.capabilities(engine, settings, tasks.context)
        assert set(Guarantee) - found.guarantees == {Guarantee.NETWORK}
        assert any("no network for you" in note for note in found.notes)
        check = {check.name: check for check in doctor.checks(settings, tasks.context)}["singularity network"]
        assert check.health is Health.WARNING and "no-network-isolation" in check.advice
        tasks.engine = engine
        tasks.settings = settings
        with pytest.raises(IsolationError, match="no-network-isolation"):
            tasks.run("true")
        assert not (tasks.folder / "logs/task.log").exists(), "something was started"
        outcome = tasks.run("grep Seccomp: /proc/self/status", waivers=("no-network-isolation",))
        assert outcome.tail[0].split()[1] == "2", "only what was waived is open"
        assert outcome.waivers == ("no-network-isolation",)

    tasks.do(work)


def test_an_engine_that_holds_no_limits_leaves_them_to_the_watchdog(tasks: Any) -> None:
    def work() -> None:
        real = tasks.engine.program
        refusing = f'case " $* " in *" --memory "*) echo "FATAL: no limits" >&2; exit 255;; esac; exec {real} "$@"'
        settings = engine_that(tasks.folder, refusing)
        engine = find_engine(settings)
        found = probe.ability(engine, settings, tasks.context)
        assert found.guarantees == set(Guarantee)
        assert not found.limits & {Limit.MEMORY, Limit.CPU}
        checks = {check.name: check for check in doctor.checks(settings, tasks.context)}
        assert "watched" in checks["singularity limits"].found

    tasks.do(work)


@pytest.mark.parametrize(
    ("values", "health", "words"),
    [
        ({}, Health.OK, ""),
        ({"user/max_user_namespaces": "15000", "kernel/unprivileged_userns_clone": "1"}, Health.OK, ""),
        ({"user/max_user_namespaces": "0"}, Health.WARNING, "user.max_user_namespaces="),
        ({"kernel/unprivileged_userns_clone": "0"}, Health.WARNING, "kernel.unprivileged_userns_clone=1"),
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, Health.WARNING, "AppArmor"),
    ],
)
def test_user_namespaces(tmp_path: Path, values: Mapping[str, str], health: Health, words: str) -> None:
    for name, value in values.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    check = doctor.user_namespaces(tmp_path)
    assert check.health is health and words in check.advice


def test_fakeroot_needs_ranges_for_the_account(tasks: Any) -> None:
    def work() -> None:
        folder = tasks.path("etc")
        import os

        if os.geteuid() == 0:
            assert "not needed" in doctor.fakeroot(folder).found
            return
        (folder / "subuid").write_text(f"{os.geteuid()}:100000:65536\n")
        assert "subgid" in doctor.fakeroot(folder).found
        assert "usermod" in doctor.fakeroot(folder).advice
        (folder / "subgid").write_text(f"{os.geteuid()}:100000:65536\n")
        assert doctor.fakeroot(folder).health is Health.OK

    tasks.do(work)
