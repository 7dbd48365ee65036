"""The root file system made from this machine's Python."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from medperf_examples import base_image

MODULES = "import ssl, ctypes, json, hashlib, zlib, decimal, csv, argparse, random, statistics"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "root.tar"
    base_image.write(path)
    return path


def test_contents(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        members = {member.name: member for member in tar.getmembers()}
    assert members["tmp"].mode == 0o1777
    assert {"etc/passwd", "etc/group", "usr/local/bin/python3"} <= set(members)
    assert not [name for name in members if name.startswith("dev/") or name.startswith("/")]
    folders = {part for name in members for part in name.split("/")[:-1]}
    assert not folders & {"site-packages", "test", "__pycache__", "idlelib", "tkinter", "ensurepip"}
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 0)}
    assert archive.stat().st_size < 150_000_000


def test_every_folder_comes_before_what_it_holds(archive: Path) -> None:
    seen = {""}
    with tarfile.open(archive) as tar:
        for member in tar:
            assert member.name.rpartition("/")[0] in seen
            assert member.name not in seen
            seen.add(member.name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs chroot")
def test_python_starts_in_it(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path)
    tmp_path.chmod(0o755)
    done = subprocess.run(
        ["chroot", "--userspec=12345:12345", str(tmp_path), "/usr/local/bin/python3", "-I", "-c", MODULES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
