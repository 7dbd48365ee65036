"""Outputs are the task's account's while it runs, and the caller's afterwards, whatever the task did to them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medperf_core.errors import ConfigurationError, ExecutionError
from medperf_core.plugin.handover import handed_over, parse_account, unreadable
from medperf_core.plugin.layout import Bind


def test_accounts() -> None:
    assert parse_account("5") == (5, 5)
    assert parse_account("5:6") == (5, 6)
    for text in ("nobody", "5:", "-1", "5:x", "", "5:6:7", "٥"):
        with pytest.raises(ConfigurationError):
            parse_account(text)


def test_outputs_go_there_and_back(tmp_path: Path) -> None:
    output, data = tmp_path / "out", tmp_path / "in"
    output.mkdir()
    data.mkdir()
    (output / "link").symlink_to(data)
    binds = [Bind(output, "/out", True), Bind(data, "/in", False)]
    own = (os.geteuid(), os.getegid())
    there = (4321, 1234) if own[0] == 0 else own
    with pytest.raises(KeyError), handed_over(binds, *there):
        assert (output.stat().st_uid, output.stat().st_gid) == there
        assert data.stat().st_uid == own[0], "inputs stay whose they are"
        (output / "a").mkdir()
        (output / "a" / "tool").touch()
        (output / "a" / "tool").chmod(0o6755)
        if own[0] == 0:
            os.chown(output / "a" / "tool", *there)
        raise KeyError
    for path in (output, output / "a", output / "a" / "tool", output / "link", data):
        assert (path.lstat().st_uid, path.lstat().st_gid) == own
    if own[0] == 0:
        assert not (output / "a" / "tool").stat().st_mode & 0o6000


def test_inputs_that_shut_the_account_out_are_told(tmp_path: Path) -> None:
    shut, wide = tmp_path / "shut", tmp_path / "wide"
    shut.mkdir(mode=0o700)
    wide.mkdir()
    wide.chmod(0o755)
    binds = [Bind(shut, "/a", False), Bind(wide, "/b", False), Bind(shut, "/c", True)]
    assert list(unreadable(binds, 4321, 4321)) == [shut]
    assert list(unreadable(binds, os.geteuid(), os.getegid())) == []
    with pytest.raises(ExecutionError, match="gone"):
        list(unreadable([Bind(tmp_path / "gone", "/a", False)], 4321, 4321))


def test_a_tree_too_deep_for_any_path_goes_there_and_back(tmp_path: Path) -> None:
    output, name, depth = tmp_path / "out", "d" * 200, 30
    output.mkdir()
    own = (os.geteuid(), os.getegid())
    there = (4321, 1234) if own[0] == 0 else own
    with handed_over([Bind(output, "/out", True)], *there):
        folder = os.open(output, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=folder)
            os.chown(name, *there, dir_fd=folder)
            below = os.open(name, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
    status = os.fstat(folder)
    os.close(folder)
    assert (status.st_uid, status.st_gid) == own
    shutil.rmtree(output)


def test_what_cannot_be_handed_over_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        return  # nobody else hands anything over
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(ExecutionError, match=r"owner of .*out cannot be changed"),
        handed_over([Bind(tmp_path / "out", "/out", True)], 4321, 1234),
    ):
        (tmp_path / "out").rmdir()
