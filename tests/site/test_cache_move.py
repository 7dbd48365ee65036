"""The cache on another disk: moved whole or not at all, never silently begun anew, and freed without harm."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medperf_core import Site
from medperf_core.errors import ConfigurationError, TransferError, UsageError, VerificationError
from medperf_core.plugin.digest import tree_digest
from medperf_core.plugin.kept import keeping
from medperf_core.site import cache_move
from medperf_core.site.archive import pack_tree
from medperf_core.site.cache_gc import Sort, collect
from medperf_core.site.cache_move import move_cache
from medperf_core.site.cache_place import PLACE_FILE, read_place
from medperf_core.site.cache_users import using
from medperf_core.site.home import Home
from medperf_core.site.kept_steps import step_lock

CONTENTS = (b"one", b"two" * 1000, b"three" * 100_000)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(site: Site, content: bytes) -> str:
    temporary = site.cache.temporary()
    temporary.write_bytes(content)
    site.cache.add(sha256(content), temporary)
    return sha256(content)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose cache has files, a tree, a kept step, a backend's copy, and a link from one part to another."""
    with Site.open(tmp_path / "home") as site:
        for content in CONTENTS:
            put(site, content)
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "sub" / "file.txt").write_text("text")
        (source / "link").symlink_to("sub/file.txt")
        archive = site.cache.temporary()
        packed = pack_tree(source, archive)
        site.cache.add(packed.sha256, archive)
        site.cache.tree(packed.sha256)
        step = site.cache_dir / "steps" / ("ab" * 32)
        step.mkdir(parents=True)
        (step / "step.json").write_text("{}")
        with keeping(site.cache_dir / "process"):
            (site.cache_dir / "process" / ("cd" * 32)).mkdir()
        link = site.cache_dir / "other" / "image.sif"
        link.parent.mkdir()
        link.symlink_to(site.cache.file(sha256(CONTENTS[0])) or "")
        return site.home


def state(home: Home) -> dict[str, str]:
    """Everything that the cache is good for."""
    with Site.open(home.path) as site:
        assert site.cache.verify() == []
        found = {f"{entry.kind} {entry.sha256}": str(entry.size) for entry in site.cache.entries()}
        found |= {content[:5].decode(): str(site.cache.file(sha256(content)) is not None) for content in CONTENTS}
        found |= {entry.kind: tree_digest(entry.path) for entry in site.cache.entries() if entry.kind == "tree"}
        found["steps"] = str(sorted(path.name for path in (site.cache_dir / "steps").iterdir()))
        found["link"] = (site.cache_dir / "other" / "image.sif").read_text()
        return found


def age(path: Path, days: float) -> None:
    then = path.stat().st_mtime - days * 24 * 3600
    os.utime(path, (then, then))


def age_file(home: Home, content: bytes, days: float) -> None:
    name = sha256(content)
    age(home.cache_dir / "files" / "files" / name[:2] / f"{name}.json", days)


# --- moving -------------------------------------------------------------------------------------------------------


def test_a_moved_cache_is_the_same_cache(home: Home, tmp_path: Path) -> None:
    before, target = state(home), tmp_path / "disk" / "cache"
    with Site.open(home.path) as site:
        used = {entry.sha256: entry.used for entry in site.cache.entries()}
    moved = move_cache(home, target)
    assert moved.new == home.cache_dir == target
    assert not (home.path / "cache").exists()
    with Site.open(home.path) as site:
        assert {entry.sha256: entry.used for entry in site.cache.entries()} == used
        assert site.temp.is_relative_to(target)
    assert state(home) == before
    assert not (home.path / "cache").exists()
    move_cache(home, home.path / "cache")
    assert state(home) == before
    assert not target.exists()
    move_cache(home, target)
    assert state(home) == before


def test_a_disk_that_is_not_there_is_an_error_and_no_new_cache(home: Home, tmp_path: Path) -> None:
    before, target = state(home), tmp_path / "disk"
    move_cache(home, target)
    target.rename(tmp_path / "unmounted")
    for mount_point in (False, True):
        if mount_point:
            target.mkdir()
        with Site.open(home.path) as site, pytest.raises(ConfigurationError, match=str(target)):
            site.cache.entries()
        with pytest.raises(ConfigurationError, match="not there now"):
            move_cache(home, tmp_path / "another")
        with pytest.raises(ConfigurationError, match="not there now"):
            collect(home)
        assert not target.exists() or list(target.iterdir()) == []
    target.rmdir()
    (tmp_path / "unmounted").rename(target)
    assert state(home) == before
    with pytest.raises(UsageError, match="not lost"):
        move_cache(home, tmp_path / "another", lost=True)
    shutil.rmtree(target)
    move_cache(home, tmp_path / "another", lost=True)
    with Site.open(home.path) as site:
        assert site.cache.entries() == [] and site.cache_dir == tmp_path / "another"


@pytest.mark.parametrize("where", ["home", "records", "above", "inside", "same", "full", "strange", "file", "stranger"])
def test_folders_that_are_no_place_for_a_cache(where: str, home: Home, tmp_path: Path) -> None:
    other = Home.open(tmp_path / "other" / "home")
    move_cache(other, tmp_path / "other" / "cache")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "letters.txt").write_text("dear all")
    (tmp_path / "file").write_text("x")
    target = {
        "home": home.path,
        "records": home.path / "records" / "cache",
        "above": tmp_path,
        "inside": home.path / "cache" / "deeper",
        "same": home.path / "cache",
        "full": tmp_path / "source",
        "strange": tmp_path / "strange",
        "file": tmp_path / "file",
        "stranger": tmp_path / "other" / "cache",
    }[where]
    before = state(home)
    with pytest.raises(UsageError):
        move_cache(home, target)
    assert state(home) == before and home.cache_dir == home.path / "cache"
    assert (tmp_path / "strange" / "letters.txt").read_text() == "dear all"
    assert other.cache_dir.is_dir()


def test_a_link_to_the_home_does_not_help(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.path / "records")
    with pytest.raises(UsageError, match="home folder"):
        move_cache(home, tmp_path / "link" / "cache")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_copied(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(home)
    monkeypatch.setattr(cache_move, "MARGIN", 1 << 60)
    with pytest.raises(TransferError, match="room for"):
        move_cache(home, tmp_path / "small")
    assert state(home) == before
    monkeypatch.undo()
    move_cache(home, tmp_path / "small")
    assert state(home) == before


def test_a_disk_that_gives_back_something_else_is_noticed(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(home)

    def rot() -> None:
        victim = max((tmp_path / "disk").rglob("*"), key=lambda path: path.lstat().st_size)
        victim.chmod(0o600)
        with victim.open("r+b") as stream:
            stream.write(b"X")

    monkeypatch.setattr(os, "sync", rot)
    with pytest.raises(VerificationError, match="not what was written"):
        move_cache(home, tmp_path / "disk")
    monkeypatch.undo()
    assert home.cache_dir == home.path / "cache" and state(home) == before


def test_not_below_a_running_command(home: Home, tmp_path: Path) -> None:
    with Site.open(home.path) as site:
        assert site.cache.entries()
        with pytest.raises(ConfigurationError, match="using the cache"):
            move_cache(home, tmp_path / "disk")
    move_cache(home, tmp_path / "disk")


def test_two_moves_at_once(home: Home, tmp_path: Path) -> None:
    """The second comes while the first copies."""
    before = state(home)
    reached, go_on = threading.Event(), threading.Event()

    def on_bytes(done: int, total: int) -> None:
        reached.set()
        go_on.wait(60)

    first = threading.Thread(target=move_cache, args=(home, tmp_path / "a"), kwargs={"on_bytes": on_bytes})
    first.start()
    assert reached.wait(60)
    with pytest.raises(ConfigurationError, match="using the cache"):
        move_cache(home, tmp_path / "b")
    go_on.set()
    first.join()
    assert home.cache_dir == tmp_path / "a" and not (tmp_path / "b").exists()
    assert state(home) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from medperf_core.site.cache_move import move_cache
from medperf_core.site.home import Home

folder, target, left = Path(sys.argv[1]), Path(sys.argv[2]), [int(sys.argv[3])]
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "os.utime", "shutil.rmtree"}
writing = os.O_WRONLY | os.O_RDWR

def hook(event, words):
    if event in CHANGES or (event == "open" and isinstance(words[2], int) and words[2] & writing):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

home = Home.open(folder)
sys.addaudithook(hook)
move_cache(home, target)
print(int(sys.argv[3]) - left[0])
"""


def killed_move(home: Home, target: Path, after: int) -> subprocess.CompletedProcess[str]:
    """Moves in a process of its own, which is killed before its change of that number."""
    return subprocess.run(
        [sys.executable, "-c", KILLED, home.path, target, str(after)], capture_output=True, text=True, check=False
    )


def test_killed_at_many_moments(home: Home, tmp_path: Path) -> None:
    before = state(home)
    spare = tmp_path / "spare"
    shutil.copytree(home.path, spare, symlinks=True)
    done = killed_move(home, tmp_path / "whole", 0)
    assert done.returncode == 0, done.stderr
    changes = -int(done.stdout) if done.stdout.startswith("-") else int(done.stdout)
    assert changes > 40
    for after in sorted({1, 2, 3, 4, 5, 6, 7, 8, *range(9, changes, changes // 12), *range(changes - 6, changes + 1)}):
        shutil.rmtree(home.path)
        shutil.copytree(spare, home.path, symlinks=True)
        link = home.path / "cache" / "other" / "image.sif"
        assert link.is_symlink()
        target = tmp_path / f"target-{after}"
        killed = killed_move(home, target, after)
        assert killed.returncode == -9, (after, killed.stderr)
        assert state(home) == before, after
        if home.cache_dir != target:
            move_cache(home, target)
        assert state(home) == before, after
        collect(home, older_than=1000)
        assert not (home.path / "cache").exists(), after
        move_cache(home, tmp_path / f"again-{after}")
        assert not (home.path / "cache").exists() and not target.exists()
        assert state(home) == before, after
        shutil.rmtree(tmp_path / f"again-{after}")


def test_a_damaged_place_file_says_so(home: Home) -> None:
    for text in ("", "[]", "{}", '{"folder": "relative", "id": "' + "a" * 32 + '"}', '{"folder": "/x", "id": 1}', "["):
        (home.path / PLACE_FILE).write_text(text)
        with pytest.raises(ConfigurationError, match=PLACE_FILE):
            read_place(home.path)


# --- freeing ------------------------------------------------------------------------------------------------------


def test_the_longest_unused_go_first(home: Home) -> None:
    for days, content in zip((50, 40, 1), CONTENTS, strict=True):
        age_file(home, content, days)
    whole = collect(home, keep=1 << 40)
    assert whole.freed == ()
    kept = collect(home, keep=whole.left - 1)
    assert [item.name for item in kept.freed] == [sha256(CONTENTS[0])]
    rest = collect(home)
    assert [item.name for item in rest.freed] == [sha256(CONTENTS[1])]
    assert rest.left == kept.left - len(CONTENTS[1])
    assert collect(home).freed == ()
    with Site.open(home.path) as site:
        assert [site.cache.file(sha256(content)) is not None for content in CONTENTS] == [False, False, True]


def test_a_dry_run_frees_nothing(home: Home) -> None:
    age_file(home, CONTENTS[0], 50)
    before = state(home)
    age_file(home, CONTENTS[0], 50)
    assert [item.name for item in collect(home, dry_run=True).freed] == [sha256(CONTENTS[0])]
    assert state(home) == before


def test_steps_and_copies_of_backends_go_too(home: Home) -> None:
    step = home.cache_dir / "steps" / ("ab" * 32)
    copy = home.cache_dir / "process" / ("cd" * 32)
    age(step / "step.json", 40)
    age(copy, 41)
    assert [item.sort for item in collect(home).freed] == [Sort.COPY, Sort.STEP]
    assert not step.exists() and not copy.exists()
    assert (home.cache_dir / "other").is_dir()


def test_what_a_running_command_uses_stays(home: Home) -> None:
    for content in CONTENTS:
        age_file(home, content, 50)
    with Site.open(home.path) as site:
        assert site.cache.file(sha256(CONTENTS[0])) is not None
        done = collect(home, keep=0)
        assert {item.name for item in done.freed} == {sha256(content) for content in CONTENTS[1:]}
        assert done.busy >= len(CONTENTS[0])
        assert site.cache.file(sha256(CONTENTS[0])) is not None


def test_a_step_in_hand_stays(home: Home) -> None:
    from filelock import FileLock

    step = home.cache_dir / "steps" / ("ab" * 32)
    age(step / "step.json", 40)
    with FileLock(step_lock(home, step.name)):
        assert collect(home).freed == ()
    assert [item.sort for item in collect(home).freed] == [Sort.STEP]


def test_what_is_pinned_stays(home: Home) -> None:
    age_file(home, CONTENTS[0], 50)
    assert collect(home, pinned=frozenset({sha256(CONTENTS[0])})).freed == ()


def test_a_killed_command_holds_nothing_back(home: Home) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from medperf_core import Site;"
        "site = Site.open(Path(sys.argv[1])); site.cache.entries(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, home.path], check=False).returncode == -9
    (left,) = (home.cache_dir / "users").iterdir()
    age(left, 100)
    age_file(home, CONTENTS[0], 50)
    assert [item.name for item in collect(home).freed] == [sha256(CONTENTS[0])]
    assert not left.exists()


def test_users_are_seen_by_the_time_they_began(home: Home) -> None:
    with using(home) as folder:
        (mine,) = (folder / "users").iterdir()
        age(mine, 60)
        age_file(home, CONTENTS[0], 50)
        assert collect(home).freed == collect(home, dry_run=True).freed == ()
    assert [item.name for item in collect(home).freed] == [sha256(CONTENTS[0])]
