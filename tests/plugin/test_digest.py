"""Folder hashes: the public client's test vectors, and our own that sees names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medperf_core.errors import InvalidEntityError
from medperf_core.plugin.digest import leads_out, path_digest, public_folder_hash, source_digest, tree_digest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a.txt").write_text("hello\n")
    (tmp_path / "data" / "sub" / "b.txt").write_text("world\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "l.csv").write_text("id,label\n1,0\n")
    return tmp_path / "data"


def test_public_hash_vectors(data: Path) -> None:
    labels = data.parent / "labels"
    assert public_folder_hash([data]) == "9e7cc9e1540e8b9cc91eb6a7da9ec924144b2eaaae26097c6427dcf547711add"
    assert public_folder_hash([data, labels]) == "1b9cc675aab6bdcbddea6de35453f5a590d55352874138b89365250e688feb15"
    assert public_folder_hash([data, data]) == "6091aa88b14efdf24222aee451b720d19d7ad282ebfb14d5fd7500dddacecc27"
    empty = data.parent / "empty"
    empty.mkdir()
    assert public_folder_hash([empty]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_s18_swapped_labels_change_our_hash_but_not_the_public_one(data: Path) -> None:
    before = (public_folder_hash([data]), tree_digest(data))
    (data / "a.txt").write_text("world\n")
    (data / "sub" / "b.txt").write_text("hello\n")
    assert public_folder_hash([data]) == before[0]
    assert tree_digest(data) != before[1]


def test_renaming_adding_and_permissions_change_our_hash(data: Path) -> None:
    seen = {tree_digest(data)}
    (data / "a.txt").rename(data / "c.txt")
    seen.add(tree_digest(data))
    (data / "c.txt").chmod(0o755)
    seen.add(tree_digest(data))
    (data / "link").symlink_to("c.txt")
    seen.add(tree_digest(data))
    assert len(seen) == 4


def test_times_and_empty_folders_do_not_count(data: Path) -> None:
    before = tree_digest(data)
    os.utime(data / "a.txt", (1, 1))
    (data / "nothing").mkdir()
    assert tree_digest(data) == before


def test_compiled_files_do_not_change_a_source(data: Path) -> None:
    before = source_digest(data)
    (data / "__pycache__").mkdir()
    (data / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert source_digest(data) == before
    assert tree_digest(data) != before


def test_a_link_that_leads_out_is_refused_by_name(data: Path) -> None:
    (data / "evil").symlink_to("/etc/passwd")
    (data / "sub" / "up").symlink_to("../../labels/l.csv")
    with pytest.raises(InvalidEntityError) as caught:
        tree_digest(data)
    assert {problem.split(":")[0] for problem in caught.value.problems} == {"evil", "sub/up"}


def test_a_fifo_is_refused(data: Path) -> None:
    os.mkfifo(data / "pipe")
    with pytest.raises(InvalidEntityError, match="pipe"):
        tree_digest(data)


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("a", "b", False),
        ("a", "../b", True),
        ("s/a", "../b", False),
        ("s/a", "../../b", True),
        ("a", "/b", True),
        ("s/a", "x/../../b", False),
        ("s/a", "./.././../b", True),
    ],
)
def test_leads_out(path: str, target: str, out: bool) -> None:
    assert leads_out(path, target) is out


def test_a_file_is_hashed_by_its_bytes(data: Path) -> None:
    assert path_digest(data / "a.txt").startswith("sha256:5891b5b5")
