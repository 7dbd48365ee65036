"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from medperf_core.site.atomic import move_in, new_folder, write_atomically


def test_file_is_replaced_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "ü.yaml"
    path.write_text("old")
    before = os.umask(0o077)
    try:
        write_atomically(path, "ü\n", mode=0o644)
    finally:
        os.umask(before)
    assert path.read_bytes() == "ü\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    write_atomically(path, b"bytes")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "link").is_symlink()


def test_longest_names_fit(tmp_path: Path) -> None:
    for name in ("n" * 255, "😀" * 63):
        write_atomically(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_folder_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with new_folder(target) as folder:
        (folder / "a").write_text("a")
        assert not target.exists()
    assert (target / "a").read_text() == "a"
    with pytest.raises(RuntimeError), new_folder(tmp_path / "other") as folder:
        (folder / "a").write_text("a")
        raise RuntimeError("in the middle")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_exists_is_never_replaced_by_a_folder(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"

    def occupy() -> None:
        if kind == "folder":
            target.mkdir()
        elif kind == "file":
            target.write_text("mine")
        else:
            target.symlink_to("nowhere")

    with pytest.raises(FileExistsError), new_folder(target):
        occupy()
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(FileExistsError), new_folder(target):
        pytest.fail("began although the name was taken")
    (tmp_path / "made").mkdir()
    with pytest.raises(FileExistsError):
        move_in(tmp_path / "made", target)
    assert (tmp_path / "made").is_dir()
