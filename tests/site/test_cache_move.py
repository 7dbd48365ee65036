"""The cache on another disk: moved whole or not at all, and never silently begun anew."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medperf_core import Site
from medperf_core.errors import CancelledError, ConfigurationError, TransferError, UsageError, VerificationError
from medperf_core.site import cache_move, cache_users
from medperf_core.site.cache_gc import collect
from medperf_core.site.cache_move import OWN_FOLDER, move_cache
from medperf_core.site.cache_place import PLACE_FILE, Place, read_marker, read_place, write_place
from medperf_core.site.home import Home, remove_tree
from tests.site.cache_homes import BACKENDS, home, state

__all__ = ["home"]


@pytest.fixture
def other_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_moved_cache_is_the_same_cache(home: Home, tmp_path: Path) -> None:
    before, target = state(home), tmp_path / "disk" / "cache"
    with Site.open(home.path) as site:
        used = {entry.sha256: entry.used for entry in site.cache.entries()}
    moved = move_cache(home, target, backends=BACKENDS)
    assert moved.new == home.cache_dir == target / OWN_FOLDER and moved.steps == 1 and not moved.rest
    assert not (home.path / "cache").exists()
    with Site.open(home.path) as site:
        assert {entry.sha256: entry.used for entry in site.cache.entries()} == used
        assert site.temp.is_relative_to(target)
    assert state(home) == before
    assert not (home.path / "cache").exists()
    move_cache(home, home.path / "cache", backends=BACKENDS)
    assert state(home) == before
    assert list(target.iterdir()) == []
    move_cache(home, target / OWN_FOLDER, backends=BACKENDS)
    assert state(home) == before and home.cache_dir == target / OWN_FOLDER


def test_prepared_data_are_not_carried_to_another_disk(home: Home, tmp_path: Path) -> None:
    step = home.cache_dir / "steps" / ("ab" * 32)
    (step / "outputs").mkdir()
    (step / "outputs" / "patient.csv").write_text("patient")
    assert move_cache(home, tmp_path / "share").steps == 1
    assert not list(tmp_path.rglob("patient.csv")) and not list((tmp_path / "share").rglob("steps"))


def test_locks_and_what_is_on_its_way_in_stay_behind(home: Home, tmp_path: Path) -> None:
    files = home.cache_dir / "files"
    assert list((files / "locks").iterdir())
    (files / "temp" / "half" / "poetry.lock").parent.mkdir()
    (files / "temp" / "half" / "poetry.lock").write_text("half")
    (files / "partial" / "x.lock").touch()
    (files / "partial" / "x.part").touch()
    move_cache(home, tmp_path)
    files = tmp_path / OWN_FOLDER / "files"
    assert [list((files / name).iterdir()) for name in ("locks", "temp")] == [[], []]
    assert [path.name for path in (files / "partial").iterdir()] == ["x.part"]


def test_somebodys_files_are_neither_removed_nor_carried_off(home: Home, tmp_path: Path) -> None:
    """Beside the cache, in its folder, and in what an interrupted move left."""
    usb, other = tmp_path / "usb", tmp_path / "other"
    usb.mkdir()
    (usb / "letters.txt").write_text("dear all")
    before = state(home)
    (home.cache_dir / "notes.txt").write_text("notes")
    moved = move_cache(home, usb, backends=BACKENDS)
    assert moved.rest and (home.path / "cache" / "notes.txt").read_text() == "notes"
    assert list((home.path / "cache").iterdir()) == [home.path / "cache" / "notes.txt"]
    thesis = usb / OWN_FOLDER / "thesis" / "thesis.docx"
    thesis.parent.mkdir()
    thesis.write_text("thesis")
    (usb / OWN_FOLDER / "photo.jpg").write_text("photo")
    assert killed_move(home, other, 30).returncode == -9
    (other / OWN_FOLDER / "photos.zip").write_text("photos")
    moved = move_cache(home, other, backends=BACKENDS)
    assert moved.rest and state(home) == before
    assert (other / OWN_FOLDER / "photos.zip").read_text() == "photos"
    assert thesis.read_text() == "thesis" and not list(other.rglob("thesis*"))
    assert (usb / "letters.txt").read_text() == "dear all"
    assert {path.name for path in (usb / OWN_FOLDER).iterdir()} == {"thesis", "photo.jpg"}


def test_a_link_to_another_disk_is_a_cache_like_any_other(home: Home, tmp_path: Path, other_disk: Path) -> None:
    before = state(home)
    place = other_disk / "mine"
    shutil.move(home.path / "cache", place)
    (home.path / "cache").symlink_to(place)
    with Site.open(home.path) as site:
        assert site.temp.is_relative_to(site.cache_dir)
        work = site.temp / "step"
        work.mkdir()
        work.rename(site.cache_dir / "steps" / "made")  # what a step that ended does
    assert state(home) == before
    assert move_cache(home, tmp_path / "disk", backends=BACKENDS).steps == 2
    assert state(home) == before
    assert not os.path.lexists(home.path / "cache") and list(place.iterdir()) == []


def test_a_link_whose_disk_is_not_there_says_so(home: Home, tmp_path: Path) -> None:
    shutil.move(home.path / "cache", tmp_path / "disk")
    (home.path / "cache").symlink_to(tmp_path / "elsewhere")
    with Site.open(home.path) as site, pytest.raises(ConfigurationError, match="leads to, and it is not there"):
        site.cache.entries()


def test_a_home_may_be_renamed(home: Home, tmp_path: Path) -> None:
    link = home.path / "cache" / "other" / "image.sif"
    target = link.readlink().relative_to(link.parents[1])
    link.unlink()
    link.symlink_to(Path("..", target))  # whoever links within the cache by full paths makes the link anew
    before = state(home)
    move_cache(home, tmp_path / "disk", backends=BACKENDS)
    move_cache(home, home.path / "cache", backends=BACKENDS)
    assert not (home.path / PLACE_FILE).exists()
    home.path.rename(tmp_path / "renamed")
    home = Home.open(tmp_path / "renamed")
    assert state(home) == before
    move_cache(home, tmp_path / "disk", backends=BACKENDS)
    home.path.rename(tmp_path / "renamed again")
    assert state(Home.open(tmp_path / "renamed again")) == before


def test_a_home_may_be_renamed_in_the_middle_of_a_move(home: Home, tmp_path: Path) -> None:
    write_place(home.path, Place(home.path / "cache", "a" * 32, tmp_path / "old"))
    home.path.rename(tmp_path / "renamed")
    assert read_place(tmp_path / "renamed") == Place(tmp_path / "renamed" / "cache", "a" * 32, tmp_path / "old")


def test_a_copied_home_does_not_take_the_cache_away_below_a_command(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_cache(home, tmp_path / "disk", backends=BACKENDS)
    before = state(home)
    shutil.copytree(home.path, tmp_path / "copy", symlinks=True)
    copy = Home.open(tmp_path / "copy")
    with Site.open(home.path) as site:
        assert site.cache.entries()
        with pytest.raises(ConfigurationError, match=r"^Another medperf command is using the cache"):
            move_cache(copy, tmp_path / "another")
    assert state(home) == state(copy) == before

    def command(reading: bool, done: int, total: int) -> None:
        with Site.open(home.path) as site, pytest.raises(ConfigurationError, match="being moved"):
            site.cache.entries()

    monkeypatch.setattr(cache_users, "LOCK_SECONDS", 0.0)
    move_cache(copy, tmp_path / "another", backends=BACKENDS, on_bytes=command)
    assert state(copy) == before
    with Site.open(home.path) as site, pytest.raises(ConfigurationError, match="not there now"):
        site.cache.entries()


def test_a_copied_home_does_not_take_the_cache_of_the_first_for_a_rest(home: Home, tmp_path: Path) -> None:
    with pytest.raises(TransferError):
        move_cache(home, tmp_path / "disk", on_bytes=full)  # now the cache has an id
    shutil.copytree(home.path, tmp_path / "copy", symlinks=True)
    copy, before = Home.open(tmp_path / "copy"), state(home)
    move_cache(home, tmp_path / "disk", backends=BACKENDS)
    with pytest.raises(UsageError, match="another home"):
        move_cache(copy, tmp_path / "disk")
    assert state(home) == before


def full(reading: bool, done: int, total: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(reading: bool, done: int, total: int) -> None:
    if reading:
        raise CancelledError("Interrupted.")


@pytest.mark.parametrize(("fault", "error"), [(full, TransferError), (interrupted, CancelledError)])
def test_a_move_that_fails_leaves_nothing_behind(
    fault: Callable[[bool, int, int], None], error: type[Exception], home: Home, tmp_path: Path
) -> None:
    before, target = state(home), tmp_path / "disk" / "deeper"
    with pytest.raises(error):
        move_cache(home, target, on_bytes=fault)
    assert not (tmp_path / "disk").exists() and state(home) == before
    target.mkdir(parents=True)
    with pytest.raises(error):
        move_cache(home, target, on_bytes=fault)
    assert list(target.iterdir()) == [] and not (home.path / PLACE_FILE).exists()


def test_a_failure_after_the_switch_harms_nothing(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(home)

    def write(path: Path, place: Place) -> None:
        write_place(path, place)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_move, "write_place", write)
    with pytest.raises(KeyboardInterrupt):
        move_cache(home, tmp_path / "disk", backends=BACKENDS)
    monkeypatch.undo()
    assert home.cache_dir == tmp_path / "disk" / OWN_FOLDER and state(home) == before


def test_an_old_cache_that_cannot_be_removed_is_not_forgotten(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(home)
    monkeypatch.setattr(cache_move, "remove_tree", lambda path: None if path.name == "saved" else remove_tree(path))
    (home.cache_dir / "saved").mkdir()
    assert move_cache(home, tmp_path / "disk", backends=BACKENDS).rest
    collect(home)
    with pytest.raises(ConfigurationError, match=f"moved from {home.path / 'cache'} before"):
        move_cache(home, tmp_path / "another")
    monkeypatch.undo()
    collect(home)
    assert not (home.path / "cache").exists() and state(home) == before


def test_an_old_cache_that_another_home_uses_is_removed_later(home: Home, tmp_path: Path) -> None:
    move_cache(home, tmp_path / "first", backends=BACKENDS)
    shutil.copytree(home.path, tmp_path / "copy", symlinks=True)
    place = read_place(home.path)
    assert place is not None
    shutil.copytree(place.folder, tmp_path / "second", symlinks=True)
    write_place(home.path, Place(tmp_path / "second", place.id, place.folder))  # as a killed move left it
    with Site.open(tmp_path / "copy") as site:
        assert site.cache.entries()
        collect(home)
        assert site.cache.verify() == [] and place.folder.is_dir()
    collect(home)
    assert not place.folder.exists()


def test_a_lost_cache_is_another_one(home: Home, tmp_path: Path) -> None:
    move_cache(home, tmp_path / "disk")
    found = (tmp_path / "disk").rename(tmp_path / "unmounted") / OWN_FOLDER
    move_cache(home, tmp_path / "new", lost=True)
    old, new = read_marker(found), read_marker(home.cache_dir)
    assert old is not None and new is not None and old.id != new.id


def test_a_disk_that_is_not_there_is_an_error_and_no_new_cache(home: Home, tmp_path: Path) -> None:
    before, target = state(home), tmp_path / "disk"
    move_cache(home, target, backends=BACKENDS)
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
        assert not (tmp_path / "another").exists()
    target.rmdir()
    (tmp_path / "unmounted").rename(target)
    assert state(home) == before
    with pytest.raises(UsageError, match="not lost"):
        move_cache(home, tmp_path / "another", lost=True)
    shutil.rmtree(target)
    move_cache(home, tmp_path / "another", lost=True)
    with Site.open(home.path) as site:
        assert site.cache.entries() == [] and site.cache_dir == tmp_path / "another" / OWN_FOLDER


@pytest.mark.parametrize("where", ["home", "records", "inside", "same", "full", "strange", "file", "stranger"])
def test_folders_that_are_no_place_for_a_cache(where: str, home: Home, tmp_path: Path) -> None:
    other = Home.open(tmp_path / "other" / "home")
    move_cache(other, tmp_path / "other" / "cache")
    letters = tmp_path / "full" / OWN_FOLDER / "letters.txt"
    letters.parent.mkdir(parents=True)
    letters.write_text("dear all")
    (tmp_path / "file").write_text("x")
    target = {
        "home": home.path,
        "records": home.path / "records" / "cache",
        "inside": home.path / "cache" / "deeper",
        "same": home.path / "cache",
        "full": tmp_path / "full",
        "strange": tmp_path / "full" / OWN_FOLDER,
        "file": tmp_path / "file",
        "stranger": tmp_path / "other" / "cache",
    }[where]
    before = state(home)
    with pytest.raises(UsageError):
        move_cache(home, target)
    assert state(home) == before and home.cache_dir == home.path / "cache"
    assert letters.read_text() == "dear all"
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
    assert not (tmp_path / "small").exists()
    monkeypatch.undo()
    move_cache(home, tmp_path / "small", backends=BACKENDS)
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

    def on_bytes(reading: bool, done: int, total: int) -> None:
        reached.set()
        go_on.wait(60)

    first = threading.Thread(
        target=move_cache, args=(home, tmp_path / "a"), kwargs={"on_bytes": on_bytes, "backends": BACKENDS}
    )
    first.start()
    assert reached.wait(60)
    with pytest.raises(ConfigurationError, match="using the cache"):
        move_cache(home, tmp_path / "b")
    go_on.set()
    first.join()
    assert home.cache_dir == tmp_path / "a" / OWN_FOLDER and not (tmp_path / "b").exists()
    assert state(home) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from medperf_core.site.cache_move import move_cache
from medperf_core.site.home import Home, remove_tree

from tests.site.cache_homes import BACKENDS, home, state

__all__ = ["home"]

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
move_cache(home, target, backends=["other"])
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
        target = tmp_path / f"target-{after}" / OWN_FOLDER
        killed = killed_move(home, target, after)
        assert killed.returncode == -9, (after, killed.stderr)
        assert state(home) == before, after
        if home.cache_dir != target:
            move_cache(home, target, backends=BACKENDS)
        assert state(home) == before, after
        collect(home, older_than=1000)
        assert not (home.path / "cache").exists(), after
        move_cache(home, tmp_path / f"again-{after}", backends=BACKENDS)
        assert not (home.path / "cache").exists() and not target.exists()
        assert state(home) == before, after
        shutil.rmtree(tmp_path / f"again-{after}")


def test_a_damaged_place_file_says_so(home: Home) -> None:
    for text in ("", "[]", "{}", '{"folder": "relative", "id": "' + "a" * 32 + '"}', '{"folder": "/x", "id": 1}', "["):
        (home.path / PLACE_FILE).write_text(text)
        with pytest.raises(ConfigurationError, match=PLACE_FILE):
            read_place(home.path)
