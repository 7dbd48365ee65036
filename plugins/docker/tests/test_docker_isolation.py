"""What a task can see and do, asked from inside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def lines(site: Any, script: str, *mounts: Any, **changes: Any) -> list[str]:
    outcome = site.run(script, *mounts, **changes)
    assert outcome.exit_code == 0, outcome.tail
    return list(outcome.tail)


def test_s8_only_loopback_inside(site: Any) -> None:
    assert lines(site, "sed -n 's/:.*//p' /proc/net/dev | tr -d ' '") == ["lo"]


def test_s5_process_has_no_privileges(site: Any) -> None:
    seen = lines(site, "grep -E 'Cap|NoNew|Seccomp|id:' /proc/self/status")
    status = dict(line.split(":\t", 1) for line in seen)
    assert {status[f"Cap{name}"].strip() for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {"0000000000000000"}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()


def test_own_tmp_takes_programs_and_has_a_size(site: Any) -> None:
    from medperf_core.plugin import Resources

    script = """cp /bin/busybox /tmp/busybox && /tmp/busybox echo ran
        dd if=/dev/zero of=/tmp/big bs=1M count=40 2>/dev/null
        stat -c %s /tmp/big"""
    ran, size = lines(site, script, resources=Resources(tmp_size=16 << 20))
    assert ran == "ran"
    assert int(size) < 16 << 20


def test_environment_is_clean(site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "docker-config"
    folder.mkdir()
    (folder / ".docker").mkdir()
    for place in (folder / "config.json", folder / ".docker" / "config.json"):
        place.write_text('{"proxies": {"default": {"httpProxy": "http://user:secret@127.0.0.1:9"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("FROM_HOST", "1")
    seen = set(lines(site, "env", environment={"ASKED": "ä b"}))
    names = {line.partition("=")[0] for line in seen}
    assert {"HOME=/tmp", "ASKED=ä b"} <= seen
    assert names <= {"HOME", "ASKED", "PATH", "HOSTNAME", "PWD", "SHLVL"}


def test_no_core_dumps(site: Any) -> None:
    assert lines(site, "ulimit -Sc; ulimit -Hc") == ["0", "0"]


def test_declared_volumes_are_read_only_and_keep_their_content(site: Any, make_image: Any) -> None:
    site.image = make_image('VOLUME ["/data", "/mnt"]')

    def volumes() -> set[str]:
        return {volume["Name"] for volume in site.client.volumes()["Volumes"] or []}

    before = volumes()
    seen = lines(site, "wc -c </data/mark; touch /data/x 2>&1; touch /mnt/x 2>&1; true")
    assert seen[0] == "16"
    assert all("Read-only" in line for line in seen[1:])
    assert volumes() == before


def test_capabilities_of_this_daemon(site: Any) -> None:
    from medperf_core.plugin import Condition, Enforcement, Guarantee, Limit

    found = site.runner().capabilities()
    assert found.guarantees == set(Guarantee)
    assert found.conditions == set(Condition) - (set() if os.geteuid() == 0 else {Condition.USER})
    assert {found.limits[limit] for limit in (Limit.MEMORY, Limit.PROCESSES, Limit.CPU)} == {Enforcement.ENGINE}
    assert found.engine.startswith(("docker ", "podman "))
    assert not found.gpus


def test_running_as_root_of_the_host_is_no_guarantee(site: Any) -> None:
    from medperf_core.plugin import Guarantee

    if os.geteuid() != 0:
        pytest.skip("only root may name another account")
    assert Guarantee.PRIVILEGES not in site.runner(run_as="0:0").capabilities().guarantees
