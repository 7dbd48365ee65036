"""Folder hashes: the public client's test vectors, and our own that sees names."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from medperf_core.errors import InvalidEntityError
from medperf_core.plugin import digest
from medperf_core.plugin.digest import (
    leads_out,
    path_digest,
    public_folder_hash,
    source_digest,
    tree_digest,
    tree_entries,
)


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


def test_tree_digest_is_what_its_description_says(data: Path) -> None:
    noise = random.Random(4)
    for name in ("z.bin", "sub/ü.bin", "sub-x/y.bin", "sub/\U0001f600"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(noise.randbytes(700_000))
    (data / "empty").touch(mode=0o755)
    (data / "exact").write_bytes(bytes(2 << 18))
    (data / "link").symlink_to("sub/b.txt")
    records = []
    for path in data.rglob("*"):
        name = str(path.relative_to(data))
        if path.is_symlink():
            records.append((name.encode(), f"l 0 {hashlib.sha256(str(path.readlink()).encode()).hexdigest()} {name}"))
        elif path.is_file():
            kind = "x" if path.stat().st_mode & 0o100 else "f"
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            records.append((name.encode(), f"{kind} {path.stat().st_size} {content} {name}"))
    expected = "".join(f"{record}\0" for _, record in sorted(records))
    assert tree_digest(data) == f"sha256:{hashlib.sha256(expected.encode()).hexdigest()}"
    assert [entry.path.encode() for entry in tree_entries(data)] == [name for name, _ in sorted(records)]


def test_progress_is_told_by_one_thread_at_a_time(data: Path) -> None:
    for number in range(50):
        (data / f"{number}.bin").write_bytes(bytes(number * 10_000))
    pieces: list[int] = []
    busy = threading.Lock()

    def on_bytes(count: int) -> None:
        assert busy.acquire(blocking=False)
        pieces.append(count)
        time.sleep(0.001)  # lets another thread in, if one may come in
        busy.release()

    tree_digest(data, on_bytes=on_bytes)
    assert sum(pieces) == sum(path.stat().st_size for path in data.rglob("*") if path.is_file())


@pytest.mark.parametrize("fails_in_main", [True, False])
def test_failure_in_any_thread_is_raised_and_ends_all(
    data: Path, fails_in_main: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    for number in range(30):
        (data / f"{number}.bin").write_bytes(b"x")
    met = threading.Barrier(3)
    waited = threading.local()

    readv = os.readv

    def read(descriptor: int, buffers: tuple[memoryview]) -> int:
        # All three are at work before one of them fails.
        if not getattr(waited, "once", False):
            waited.once = True
            met.wait(10)
        if (threading.current_thread() is threading.main_thread()) is fails_in_main:
            raise OSError(5, "Input/output error")
        return readv(descriptor, buffers)

    monkeypatch.setattr("os.readv", read)
    with pytest.raises(OSError, match="Input/output error"):
        tree_digest(data)
    assert [thread for thread in threading.enumerate() if thread.name == "hashing"] == []


@pytest.mark.parametrize(
    ("size", "short", "rounds"),
    [
        pytest.param(1000, 60.0, 1, id="small and fast"),
        pytest.param(digest._SMALL_BYTES, 60.0, 2, id="large"),
        pytest.param(1000, 0.0, 2, id="slow"),
    ],
)
def test_helpers_leave_what_is_small_and_fast_to_the_caller(
    size: int, short: float, rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr(digest, "_SHORT_SECONDS", short)
    monkeypatch.setattr(digest, "_PAUSE_SECONDS", 60.0)  # ends with the last file
    for number in range(30):
        (tmp_path / str(number)).write_bytes(bytes(size))
    met = threading.Barrier(3)
    reads: Counter[threading.Thread] = Counter()
    readv = os.readv

    def read(descriptor: int, buffers: tuple[memoryview]) -> int:
        reads[threading.current_thread()] += 1
        if reads[threading.current_thread()] <= rounds:
            met.wait(10)  # for each of the three to take as many files
        return readv(descriptor, buffers)

    monkeypatch.setattr("os.readv", read)
    tree_digest(tmp_path)
    del reads[threading.main_thread()]
    assert len(reads) == 2
    assert rounds > 1 or list(reads.values()) == [1, 1]


def test_helpers_do_what_is_small_while_the_caller_is_at_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(digest, "_SHORT_SECONDS", 0.05)
    monkeypatch.setattr(digest, "_PAUSE_SECONDS", 60.0)
    for number in range(30):
        (tmp_path / str(number)).write_bytes(b"x")
    began, done = threading.Event(), threading.Event()
    others: list[int] = []
    readv = os.readv

    def read(descriptor: int, buffers: tuple[memoryview]) -> int:
        if threading.current_thread() is threading.main_thread():
            began.set()
            assert done.wait(10)
        else:
            if not others:
                assert began.wait(10)
                time.sleep(0.06)  # until the caller's file counts as long
            others.append(descriptor)
            if len(others) == 29:
                done.set()
        return readv(descriptor, buffers)

    monkeypatch.setattr("os.readv", read)
    tree_digest(tmp_path)
    assert len(others) == 29


def test_a_file_that_grows_meanwhile_is_refused(data: Path) -> None:
    (data / "log").write_bytes(bytes(4 << 18))

    def on_bytes(count: int) -> None:
        if count > 100:
            with (data / "log").open("ab") as stream:
                stream.write(b"x")

    with pytest.raises(InvalidEntityError, match="changed while it was read"):
        tree_digest(data, on_bytes=on_bytes)


def test_a_link_with_a_target_that_is_no_text_is_refused(data: Path) -> None:
    (data / "odd").symlink_to(os.fsdecode(b"\xff"))
    with pytest.raises(InvalidEntityError, match=r"odd: .*not valid UTF-8"):
        tree_digest(data)


def test_a_name_that_is_no_text_is_refused(data: Path) -> None:
    Path(os.fsdecode(os.fsencode(data) + b"/\xff")).touch()
    with pytest.raises(InvalidEntityError, match=r"udcff.*its name is not valid UTF-8"):
        tree_digest(data)


def test_a_tree_may_be_deeper_than_python_can_call(data: Path) -> None:
    place = data
    for _ in range(1200):
        place /= "d"
        place.mkdir()
    (place / "f").write_text("deep")
    try:
        assert tree_entries(data)[-1].path == "sub/b.txt"
        assert tree_digest(data) != ""
        assert len(tree_entries(data)) == 3
    finally:
        subprocess.run(["rm", "-rf", data], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a bind mount")
def test_a_file_that_holds_more_than_its_folder_says_is_refused(data: Path) -> None:
    subprocess.run(["mount", "--bind", "/proc/version", data / "a.txt"], check=True)
    try:
        with pytest.raises(InvalidEntityError, match=r"a\.txt cannot be hashed:\s+- it changed while it was read"):
            tree_digest(data)
    finally:
        subprocess.run(["umount", data / "a.txt"], check=True)
