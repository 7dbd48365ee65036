"""Finding a container's processes on this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from medperf_docker.processes import first_process, is_here, threads_of

ID = "c" * 64
HERE = {"KernelVersion": os.uname().release, "Name": os.uname().nodename}


def add(proc: Path, pid: int, numbers: str, mounts: str = f"1 2 8:1 /data/{ID}/hostname /etc/hostname ro\n") -> None:
    folder = proc / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True)
    (folder / "status").write_text(f"Name:\tsh\nNSpid:\t{numbers}\nThreads:\t1\n")
    (folder / "mountinfo").write_text(mounts)


@pytest.mark.parametrize("numbers", ["70\t1", "70\t12\t1", "9\t70\t12\t1"])
def test_the_first_process_is_found_at_any_depth(tmp_path: Path, numbers: str) -> None:
    told = int(numbers.split()[-2])
    add(tmp_path, 70, numbers)
    add(tmp_path, 71, f"71\t{told + 1}\t2")
    (tmp_path / "uptime").touch()
    assert first_process(ID, told, tmp_path) == 70


@pytest.mark.parametrize(
    ("numbers", "mounts"),
    [
        ("70", "/data/{id}/x"),
        ("70\t12", "/data/{id}/x"),
        ("70\t13\t1", "/data/{id}/x"),
        ("70\t12\t1", "/data/other/x"),
        ("70\t12\t1\t1", "/data/{id}/x"),
    ],
    ids=["no container", "not its first", "another number", "another container", "one inside"],
)
def test_no_other_process_is_taken_for_it(tmp_path: Path, numbers: str, mounts: str) -> None:
    add(tmp_path, 70, numbers, mounts.format(id=ID))
    assert first_process(ID, 12, tmp_path) is None


@pytest.mark.parametrize(("container", "told"), [("", 12), ("data", 12), (ID[:12], 12), (ID, 0), (ID, -1)])
def test_odd_answers_find_nothing(tmp_path: Path, container: str, told: int) -> None:
    add(tmp_path, 70, f"70\t{told}\t1")
    assert first_process(container, told, tmp_path) is None


def test_the_processes_of_an_account(tmp_path: Path) -> None:
    add(tmp_path, 70, "70")
    (tmp_path / "70" / "task" / "71").mkdir()
    add(tmp_path, 80, "80")
    (tmp_path / "self").mkdir()
    assert threads_of(os.geteuid(), tmp_path) == 3
    assert threads_of(os.geteuid() + 1, tmp_path) == 0


def test_a_daemon_is_here_if_it_says_so_and_its_socket_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "x.sock")
    assert not is_here(path, HERE, rootless=False)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert is_here(path, HERE, rootless=False)
        assert is_here(path, HERE, rootless=True)
        assert not is_here(None, HERE, rootless=False)
        others: list[dict[str, Any]] = [{}, {"Name": "docker-desktop"}, {"KernelVersion": "6.6-linuxkit"}, {"Name": []}]
        assert not any(is_here(path, {**HERE, **other} if other else {}, rootless=False) for other in others)
        monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
        assert is_here(path, HERE, rootless=False)
        assert not is_here(path, HERE, rootless=True)
