"""What is remembered is what would be computed; whatever changed is read, and nothing else."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest

from medperf_core.errors import InvalidEntityError
from medperf_core.plugin import digest
from medperf_core.plugin.digest import HashedFile, path_digest, tree_digest
from medperf_core.site import digest_cache
from medperf_core.site.digest_cache import DigestCache


@attrs.define
class Memory:
    """A cache, and the names of the files that were read for it since last asked."""

    folder: Path
    paths: list[str] = attrs.field(factory=list)

    def digest(self, path: Path) -> str:
        return DigestCache(self.folder).path_digest(path)

    def read(self) -> list[str]:
        names, self.paths[:] = sorted(Path(path).name for path in self.paths), []
        return names


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Remembers small and young files too, as tests cannot wait."""
    memory = Memory(tmp_path / "home" / "digests")

    def hash_files(paths: Sequence[str]) -> list[HashedFile]:
        memory.paths += paths
        return digest.hash_files(paths)

    monkeypatch.setattr(digest_cache, "hash_files", hash_files)
    monkeypatch.setattr(digest_cache, "WORTH_BYTES", 1)
    monkeypatch.setattr(digest_cache, "YOUNG_NS", 0)
    return memory


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("first")
    (root / "run.sh").write_text("second")
    (root / "run.sh").chmod(0o755)
    (root / "sub" / "ü\n.txt").write_text("third")
    (root / "sub" / "link").symlink_to("../a.txt")
    return root


def rewrite(path: Path, content: bytes) -> None:
    """The same inode and size; the time of modification is set back."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_unchanged_tree_is_not_read_again(memory: Memory, tree: Path) -> None:
    expected = tree_digest(tree)
    assert memory.digest(tree) == expected
    assert memory.read() == ["a.txt", "run.sh", "ü\n.txt"]
    assert memory.digest(tree) == expected
    assert memory.read() == []


def test_unchanged_file_is_not_read_again(memory: Memory, tree: Path) -> None:
    for path in (tree / "a.txt", tree / "sub" / "link"):
        assert memory.digest(path) == path_digest(tree / "a.txt")
    assert memory.read() == ["a.txt"]
    rewrite(tree / "a.txt", b"FIRST")
    assert memory.digest(tree / "a.txt") == path_digest(tree / "a.txt")
    assert memory.read() == ["a.txt"]


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"X" * path.stat().st_size)
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def rename_and_leave_empty(root: Path) -> None:
    (root / "a.txt").rename(root / "b.txt")
    (root / "a.txt").touch()


def swap(root: Path) -> None:
    for before, after in (("a.txt", "c"), ("run.sh", "a.txt"), ("c", "run.sh")):
        (root / before).rename(root / after)


def link_elsewhere(root: Path) -> None:
    (root / "sub" / "link").unlink()
    (root / "sub" / "link").symlink_to("../run.sh")


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "content": (lambda root: rewrite(root / "a.txt", b"FIRST"), ["a.txt"]),
    "longer": (lambda root: (root / "a.txt").write_text("longer"), ["a.txt"]),
    "replaced": (lambda root: replace(root / "a.txt"), ["a.txt"]),
    "swapped": (swap, ["a.txt", "run.sh"]),
    "executable": (lambda root: (root / "a.txt").chmod(0o755), ["a.txt"]),
    "added": (lambda root: (root / "new").write_text("new"), ["new"]),
    "renamed": (rename_and_leave_empty, ["a.txt", "b.txt"]),
    "removed": (lambda root: (root / "run.sh").unlink(), []),
    "link": (lambda root: (root / "link").symlink_to("a.txt"), []),
    "other link": (link_elsewhere, []),
    "nothing": (lambda root: os.utime(root), []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_changed_is_read(change: str, memory: Memory, tree: Path) -> None:
    make, read = CHANGES[change]
    before = memory.digest(tree)
    memory.read()
    make(tree)
    after = memory.digest(tree)
    assert after == tree_digest(tree)
    assert (after == before) is (change == "nothing")
    assert memory.read() == read
    assert memory.digest(tree) == after
    assert memory.read() == []


def test_file_that_could_still_change_unseen_is_read_again(
    memory: Memory, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system with a clock of whole hours stands for one where two writes fall into one tick."""
    pack = digest_cache._pack
    tick = 3600 * 10**9

    def coarse(status: os.stat_result, modified: int, changed: int) -> bytes:
        return pack(status, modified // tick * tick, changed // tick * tick)

    monkeypatch.setattr(digest_cache, "_pack", coarse)
    monkeypatch.setattr(digest_cache, "YOUNG_NS", 2 * tick)
    memory.digest(tree)
    memory.digest(tree / "a.txt")
    rewrite(tree / "a.txt", b"FIRST")
    assert memory.digest(tree) == tree_digest(tree)
    assert memory.digest(tree / "a.txt") == path_digest(tree / "a.txt")


@pytest.mark.parametrize("year", [2300, 2400])
def test_time_that_does_not_fit_is_never_old_enough(memory: Memory, tree: Path, year: int) -> None:
    seconds = (year - 1970) * 31_556_952
    for content in (b"first", b"FIRST"):
        (tree / "a.txt").write_bytes(content)
        os.utime(tree / "a.txt", (0, seconds))
        assert memory.digest(tree) == tree_digest(tree)
        assert "a.txt" in memory.read()
        assert memory.digest(tree / "a.txt") == path_digest(tree / "a.txt")
        assert memory.read() == ["a.txt"]


def test_young_file_is_read_again_and_the_old_ones_beside_it_are_not(
    memory: Memory, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.digest(tree)
    monkeypatch.setattr(digest_cache, "YOUNG_NS", 10**15)
    memory.digest(tree)
    (tree / "new").write_text("new")
    memory.read()
    assert memory.digest(tree) == memory.digest(tree) == tree_digest(tree)
    # All of them are young now, so the first of the two forgot all.
    assert memory.read() == sorted(["new", "new", "a.txt", "run.sh", "ü\n.txt"])


def test_moved_tree_is_known(memory: Memory, tree: Path) -> None:
    expected = memory.digest(tree)
    moved = tree.rename(tree.with_name("moved"))
    memory.read()
    assert memory.digest(moved) == expected
    assert memory.read() == []


def test_what_is_left_out_is_remembered_apart(memory: Memory, tree: Path) -> None:
    cache = DigestCache(memory.folder)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "x").write_text("x")
    ignored = frozenset({"__pycache__"})
    for _ in range(2):
        assert cache.tree_digest(tree) == tree_digest(tree)
        assert cache.tree_digest(tree, ignored) == tree_digest(tree, ignored)
    assert len(list(memory.folder.iterdir())) == 2


@pytest.mark.parametrize(("name", "target"), [("evil", "/etc/passwd"), ("sub/up", "../../x")])
def test_link_that_leads_out_is_refused_as_ever(memory: Memory, tree: Path, name: str, target: str) -> None:
    memory.digest(tree)
    (tree / name).symlink_to(target)
    with pytest.raises(InvalidEntityError, match=f"{name}: a symbolic link to {target}"):
        memory.digest(tree)


def test_what_is_no_file_is_refused_as_ever(memory: Memory, tree: Path) -> None:
    memory.digest(tree)
    os.mkfifo(tree / "pipe")
    with pytest.raises(InvalidEntityError, match="pipe: neither"):
        memory.digest(tree)
    with pytest.raises(FileNotFoundError):
        memory.digest(tree / "none")


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "folder", "other program's"])
def test_damaged_record_is_none(damage: str, memory: Memory, tree: Path) -> None:
    expected = memory.digest(tree)
    (record,) = memory.folder.iterdir()
    content = record.read_bytes()
    memory.read()
    if damage == "flipped":
        position = content.index(bytes.fromhex(expected.removeprefix("sha256:"))) + 20
        record.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
    elif damage == "folder":
        record.unlink()
        record.mkdir()
    else:
        record.write_bytes({"cut": content[:130], "empty": b""}.get(damage, b'{"sha256": 1}\n'))
    assert memory.digest(tree) == expected
    assert len(memory.read()) == 3


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_damaged_record_of_files_is_none(damage: str, memory: Memory, tree: Path) -> None:
    memory.digest(tree)
    (record,) = memory.folder.iterdir()
    content = record.read_bytes()
    changed = bytes([content[-1] ^ 1])
    record.write_bytes({"flipped": content[:-1] + changed, "cut": content[:-80], "empty": content[:138]}[damage])
    memory.read()
    (tree / "new").write_text("new")
    assert memory.digest(tree) == tree_digest(tree)
    assert memory.read() == ["a.txt", "new", "run.sh", "ü\n.txt"]


def test_records_are_private(memory: Memory, tree: Path) -> None:
    memory.digest(tree)
    (record,) = memory.folder.iterdir()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(memory.folder.stat().st_mode) == 0o700


def test_home_that_cannot_be_written_is_no_error(memory: Memory, tree: Path) -> None:
    memory.folder.parent.mkdir()
    memory.folder.write_text("a file where the folder should be")
    assert memory.digest(tree) == memory.digest(tree) == tree_digest(tree)


def test_little_is_not_remembered(memory: Memory, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_cache, "WORTH_BYTES", 4 * 4096)
    memory.digest(tree)
    memory.digest(tree / "a.txt")
    assert not memory.folder.exists()
    (tree / "fourth").write_text("x")
    memory.digest(tree)
    assert len(list(memory.folder.iterdir())) == 1


@pytest.mark.parametrize("limit", ["MAX_RECORDS", "MAX_BYTES"])
def test_longest_unused_record_goes_first(
    limit: str, memory: Memory, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = [Path(shutil.copytree(tree, tree.with_name(f"tree{number}"), symlinks=True)) for number in range(3)]
    for number in (0, 1):
        memory.digest(trees[number])
        for record in memory.folder.iterdir():
            os.utime(record, (record.stat().st_mtime - 7200,) * 2)
    size = max(record.stat().st_size for record in memory.folder.iterdir())
    monkeypatch.setattr(digest_cache, limit, 2 if limit == "MAX_RECORDS" else 2 * size + 20)
    memory.digest(trees[0])  # used again, so the other one is older now
    memory.digest(trees[2])
    memory.read()
    assert len(list(memory.folder.iterdir())) == 2
    memory.digest(trees[0])
    memory.digest(trees[2])
    assert memory.read() == []
    memory.digest(trees[1])
    assert len(memory.read()) == 3
