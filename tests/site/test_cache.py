"""The cache gives back what it was given, or nothing; several processes share it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from medperf_core.errors import InvalidEntityError, NotFoundError
from medperf_core.plugin.digest import file_digest, tree_digest
from medperf_core.site.archive import pack_tree
from medperf_core.site.cache import SMALL, Cache, Kind

CONTENT = b"weights " * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(cache: Cache, content: bytes = CONTENT) -> Path:
    temporary = cache.temporary()
    temporary.write_bytes(content)
    return cache.add(hashlib.sha256(content).hexdigest(), temporary)


def put_archive(cache: Cache, tmp_path: Path) -> str:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "a.txt").write_text("first")
    (source / "sub" / "b.txt").write_text("second")
    (source / "sub" / "link").symlink_to("b.txt")
    packed = pack_tree(source, cache.temporary())
    packed_path = next((cache.root / "temp").iterdir())
    cache.add(packed.sha256, packed_path)
    return packed.sha256


def rewrite_in_place(path: Path, content: bytes) -> None:
    """Changes the content, then sets the times back, as a careful intruder or a bad restore would."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as stream:
        stream.write(content)
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_added_file_is_found_and_closed_to_others(cache: Cache) -> None:
    path = put(cache)
    assert cache.file(SHA256) == path
    assert path.read_bytes() == CONTENT
    assert path == cache.root / "files" / SHA256[:2] / SHA256
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    for folder in (cache.root, path.parent, path.parent.parent, cache.root / "temp", cache.root / "locks"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list((cache.root / "temp").iterdir()) == []


def test_unknown_file_is_none_and_unknown_tree_an_error(cache: Cache) -> None:
    assert cache.file(SHA256) is None
    with pytest.raises(NotFoundError, match=SHA256):
        cache.tree(SHA256)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", SHA256.upper(), SHA256[:-1], SHA256 + "\n", "a/" * 32])
def test_name_that_is_no_hash_never_becomes_a_path(name: str, cache: Cache) -> None:
    for call in (cache.file, cache.tree, cache.remove):
        with pytest.raises(InvalidEntityError, match="is not a SHA-256"):
            call(name)


@pytest.mark.parametrize("damage", ["same size", "cut", "longer", "link", "folder"])
def test_changed_file_is_dropped(damage: str, cache: Cache, tmp_path: Path) -> None:
    path = put(cache)
    if damage == "same size":
        rewrite_in_place(path, b"X")
    elif damage == "link":
        path.unlink()
        (tmp_path / "other").write_bytes(b"other")
        path.symlink_to(tmp_path / "other")
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.chmod(0o600)
        path.write_bytes(CONTENT[:10] if damage == "cut" else CONTENT + b"X")
    assert cache.file(SHA256) is None
    assert cache.file(SHA256) is None
    assert put(cache).read_bytes() == CONTENT
    assert cache.file(SHA256) == path


def test_touched_file_is_hashed_once_and_kept(cache: Cache) -> None:
    path = put(cache)
    os.utime(path)
    assert cache.file(SHA256) == path
    path.with_name(f"{SHA256}.json").unlink()
    assert cache.file(SHA256) == path
    assert path.with_name(f"{SHA256}.json").exists()


def test_unchanged_file_is_not_read_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(cache)
    monkeypatch.setattr("medperf_core.site.cache.file_digest", lambda path: pytest.fail("was read"))
    assert cache.file(SHA256) == path


@pytest.mark.parametrize(("size", "hashed"), [(SMALL, 1), (SMALL + 1, 0)])
def test_after_a_new_start_only_what_may_not_be_on_the_disk_is_hashed_again(
    cache: Cache, size: int, hashed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(cache, os.urandom(size))
    read: list[Path] = []

    def reading(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr("medperf_core.site.cache.file_digest", reading)
    assert cache.file(path.name) == path and not read
    for start in ("second", "third"):
        monkeypatch.setattr("medperf_core.site.cache._boot", lambda start=start: start)
        assert cache.file(path.name) == path
        assert len(read) == hashed, "and then never again"


def test_a_large_file_is_on_the_disk_before_it_has_its_name(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    name = hashlib.sha256(b"x" * (SMALL + 1)).hexdigest()
    monkeypatch.setattr("medperf_core.site.cache._sync", lambda path: synced.append(cache.file(name) is None))
    put(cache, b"x")
    assert not synced
    put(cache, b"x" * (SMALL + 1))
    assert synced == [True]
    monkeypatch.setattr("medperf_core.site.cache._boot", lambda: "")
    put(cache, b"y")
    assert len(synced) == 2, "where nobody tells when the machine was started"


def test_damaged_record_is_no_reason_to_trust(cache: Cache) -> None:
    path = put(cache)
    rewrite_in_place(path, b"X")
    path.with_name(f"{SHA256}.json").write_text("[1, 2")
    assert cache.file(SHA256) is None


def test_adding_twice_keeps_one(cache: Cache) -> None:
    assert put(cache) == put(cache)
    assert list((cache.root / "temp").iterdir()) == []
    assert cache.size() == len(CONTENT)


def test_tree_is_unpacked_once(cache: Cache, tmp_path: Path) -> None:
    sha256 = put_archive(cache, tmp_path)
    tree = cache.tree(sha256)
    before = tree.stat().st_ino
    assert tree_digest(tree) == tree_digest(tmp_path / "source")
    assert cache.tree(sha256).stat().st_ino == before


@pytest.mark.parametrize("damage", ["content", "added", "removed", "executable", "folder", "link", "replaced"])
def test_s7_changed_tree_is_unpacked_again(damage: str, cache: Cache, tmp_path: Path) -> None:
    sha256 = put_archive(cache, tmp_path)
    tree = cache.tree(sha256)
    if damage == "content":
        rewrite_in_place(tree / "sub" / "b.txt", b"SECOND")
    elif damage == "added":
        (tree / "sub" / "c.txt").write_text("new")
    elif damage == "removed":
        (tree / "a.txt").unlink()
    elif damage == "executable":
        (tree / "a.txt").chmod(0o755)
    elif damage == "folder":
        shutil.rmtree(tree / "sub")
        (tree / "sub").write_text("now a file")
    elif damage == "link":
        (tree / "sub" / "link").unlink()
        (tree / "sub" / "link").symlink_to("/etc/passwd")
    else:
        shutil.rmtree(tree)
        tree.symlink_to("/etc")
    assert tree_digest(cache.tree(sha256)) == tree_digest(tmp_path / "source")
    assert list((cache.root / "temp").iterdir()) == []


def test_changed_tree_without_its_archive_is_gone(cache: Cache, tmp_path: Path) -> None:
    sha256 = put_archive(cache, tmp_path)
    tree = cache.tree(sha256)
    (cache.root / "files" / sha256[:2] / sha256).unlink()
    assert cache.tree(sha256) == tree
    (tree / "a.txt").write_text("other")
    with pytest.raises(NotFoundError):
        cache.tree(sha256)
    assert not tree.exists()


def test_touched_tree_is_hashed_and_kept(cache: Cache, tmp_path: Path) -> None:
    sha256 = put_archive(cache, tmp_path)
    tree = cache.tree(sha256)
    before = tree.stat().st_ino
    os.utime(tree / "a.txt")
    assert cache.tree(sha256).stat().st_ino == before


def test_archive_that_is_none_is_named(cache: Cache) -> None:
    put(cache)
    with pytest.raises(InvalidEntityError, match=SHA256):
        cache.tree(SHA256)
    assert not (cache.root / "trees" / SHA256[:2] / SHA256).exists()


def test_unpacking_that_was_killed_leaves_nothing_for_long(cache: Cache, tmp_path: Path) -> None:
    sha256 = put_archive(cache, tmp_path)
    leftover = cache.root / "trees" / sha256[:2] / f".{sha256[:48]}.0123456789abcdef.tmp"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("half")
    cache.tree(sha256)
    assert not leftover.exists()


def test_leftovers_go_by_age(cache: Cache) -> None:
    left = cache.temporary()
    left.write_text("x")
    os.utime(left, (1, 1))  # an old file that got its name here a moment ago
    assert cache.remove_leftovers() == 0
    assert left.exists()
    later = left.stat().st_ctime + 1
    assert cache.leftovers(later) == [(left, 1)]
    assert cache.remove_leftovers(later) == 1
    assert not left.exists()


def test_what_is_intact_stays_on_a_full_disk(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(cache)
    cache.tree(put_archive(cache, tmp_path))
    before = cache.entries()

    def full(*words: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medperf_core.site.cache.write_atomically", full)
    assert cache.verify() == []
    assert [entry.path for entry in cache.entries()] == [entry.path for entry in before]


def test_what_another_process_removes_at_the_same_time_is_no_error(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``gc`` takes what it finds in ``temp/`` for a leftover: also a tree that is being removed."""
    put(cache)
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        done = real(path, target)
        Path(target).unlink()
        return done

    monkeypatch.setattr(Path, "rename", rename)
    assert cache.remove(SHA256) == len(CONTENT)


def test_leftovers_are_looked_for_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(Cache, "remove_leftovers", lambda self: looked.append(self))
    for _ in range(3):
        cache.tidy()
    assert looked == [cache]


def test_list_size_remove(cache: Cache, tmp_path: Path) -> None:
    path = put(cache)
    sha256 = put_archive(cache, tmp_path)
    cache.tree(sha256)
    os.utime(path.with_name(f"{SHA256}.json"), (1, 1))
    longest_unused, *others = cache.entries()
    assert (longest_unused.sha256, longest_unused.kind, longest_unused.size) == (SHA256, Kind.FILE, len(CONTENT))
    assert {(entry.sha256, entry.kind) for entry in others} == {(sha256, Kind.FILE), (sha256, Kind.TREE)}
    assert next(entry.size for entry in others if entry.kind is Kind.TREE) == len("firstsecondb.txt")
    before = cache.size()
    freed = cache.remove(sha256)
    assert cache.size() == before - freed == len(CONTENT)
    assert cache.remove(sha256) == 0
    assert [entry.sha256 for entry in cache.entries()] == [SHA256]


def test_use_is_noted(cache: Cache) -> None:
    path = put(cache)
    os.utime(path.with_name(f"{SHA256}.json"), (1, 1))
    cache.file(SHA256)
    assert cache.entries()[0].used > 1


def test_verify_hashes_everything(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Bits that rot on the disk change no time: what things look like is made a constant to stand for that.
    monkeypatch.setattr("medperf_core.site.cache._looks_of", lambda status: "always the same")
    path = put(cache)
    sha256 = put_archive(cache, tmp_path)
    tree = cache.tree(sha256)
    assert cache.verify() == []
    rewrite_in_place(path, b"X")
    rewrite_in_place(tree / "a.txt", b"FIRST")
    assert cache.file(SHA256) == path
    assert cache.tree(sha256) == tree
    assert {(entry.sha256, entry.kind) for entry in cache.verify()} == {(SHA256, Kind.FILE), (sha256, Kind.TREE)}
    assert cache.file(SHA256) is None
    assert not tree.exists()


RACER = """
import sys
from pathlib import Path
from medperf_core.plugin.digest import file_digest, tree_digest
from medperf_core.site.cache import Cache

cache, archives = Cache(Path(sys.argv[1])), sorted(Path(sys.argv[2]).iterdir())
print("ready", flush=True)
sys.stdin.readline()
for archive in archives:
    temporary = cache.temporary()
    temporary.write_bytes(archive.read_bytes())
    sha256 = file_digest(temporary)
    cache.add(sha256, temporary)
    tree = cache.tree(sha256)
    assert len(list(tree.iterdir())) == 50
    assert tree_digest(tree) == tree_digest(cache.tree(sha256))
    found = cache.file(sha256)
    assert found is not None and file_digest(found) == sha256
"""


def test_processes_do_each_other_no_harm(cache: Cache, tmp_path: Path) -> None:
    """Four processes bring in and unpack the same archives at the same time."""
    (tmp_path / "archives").mkdir()
    source = tmp_path / "source"
    source.mkdir()
    for archive in range(8):
        for number in range(50):
            (source / f"{number}.txt").write_text(f"{archive} {number}")
        pack_tree(source, tmp_path / "archives" / f"{archive}.tar.gz")
    command: list[str | Path] = [sys.executable, "-c", RACER, cache.root, tmp_path / "archives"]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
    assert len(cache.entries()) == 16
    assert list((cache.root / "temp").iterdir()) == []
    assert cache.verify() == []
