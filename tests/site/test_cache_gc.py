"""The cache is freed without harm: what runs, begins or is pinned meanwhile keeps what it uses."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from medperf_core import Site
from medperf_core.errors import ConfigurationError
from medperf_core.plugin.kept import note_use
from medperf_core.site import cache_gc, cache_users
from medperf_core.site.cache import Cache
from medperf_core.site.cache_contents import Kept, Sort, contents, remove_aside
from medperf_core.site.cache_gc import collect
from medperf_core.site.cache_move import move_cache
from medperf_core.site.cache_users import freeing, using
from medperf_core.site.cache_verify import verify_all
from medperf_core.site.home import ABANDONED_SECONDS, Home, locked
from medperf_core.site.kept_steps import note_step_use, step_lock
from tests.site.cache_homes import CONTENTS, age, age_file, home, put, sha256, state

__all__ = ["home"]


def users(home: Home) -> list[Path]:
    return [file for file in (home.cache_dir / "users").iterdir() if not file.name.startswith(".")]


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
    step = home.cache_dir / "steps" / ("ab" * 32)
    age(step / "step.json", 40)
    with FileLock(step_lock(home, step.name)):
        assert collect(home).freed == ()
    assert [item.sort for item in collect(home).freed] == [Sort.STEP]


def test_what_is_pinned_stays(home: Home) -> None:
    age_file(home, CONTENTS[0], 50)
    assert collect(home, pinned=lambda: frozenset({sha256(CONTENTS[0])})).freed == ()


def test_a_killed_command_holds_nothing_back(home: Home) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from medperf_core import Site;"
        "site = Site.open(Path(sys.argv[1])); site.cache.entries(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, home.path], check=False).returncode == -9
    (left,) = users(home)
    age(left, 100)
    age_file(home, CONTENTS[0], 50)
    assert [item.name for item in collect(home).freed] == [sha256(CONTENTS[0])]
    assert not left.exists()


def test_users_are_seen_by_the_time_they_began(home: Home) -> None:
    with using(home) as folder:
        (mine,) = users(home)
        assert mine.parent == folder / "users"
        age(mine, 60)
        age_file(home, CONTENTS[0], 50)
        assert collect(home).freed == collect(home, dry_run=True).freed == ()
    assert [item.name for item in collect(home).freed] == [sha256(CONTENTS[0])]


# --- what happens meanwhile -----------------------------------------------------------------------------------------


def test_what_a_command_that_began_meanwhile_uses_stays(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a step and a copy, taken into use after they were listed and before they are freed."""
    step = home.cache_dir / "steps" / ("ab" * 32)
    copy = home.cache_dir / "process" / ("cd" * 32)
    age_file(home, CONTENTS[0], 50)
    age(step / "step.json", 50)
    age(copy, 50)

    def listing(folder: Path) -> list[Kept]:
        listed = contents(folder)
        with Site.open(home.path) as site:
            assert site.cache.file(sha256(CONTENTS[0]))
            note_step_use(step)
            note_use(copy)
        return listed

    monkeypatch.setattr(cache_gc, "contents", listing)
    done = collect(home)
    assert done.freed == () and done.busy > 0
    assert step.is_dir() and copy.is_dir()
    monkeypatch.undo()
    for path in (step / "step.json", copy):
        age(path, 50)
    age_file(home, CONTENTS[0], 50)
    assert {item.sort for item in collect(home).freed} == {Sort.FILE, Sort.STEP, Sort.COPY}


def test_a_command_begins_while_much_is_freed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    age(home.cache_dir / "process" / ("cd" * 32), 50)
    begun = []

    def remove(path: Path) -> bool:
        monkeypatch.setattr(cache_users, "LOCK_SECONDS", 0.0)
        with Site.open(home.path) as site:
            begun.append(site.cache.file(sha256(CONTENTS[0])))
        return remove_aside(path)

    monkeypatch.setattr(cache_gc, "remove_aside", remove)
    assert [item.sort for item in collect(home).freed] == [Sort.COPY]
    assert begun and begun[0] is not None


def test_a_command_is_seen_from_its_first_moment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is there and not locked yet when something is freed."""
    real = fcntl.flock
    done: list[int] = []

    def flock(descriptor: int, kind: int) -> None:
        if kind == fcntl.LOCK_EX and not done:
            done.append(kind)
            with freeing(home):
                pass
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with using(home):
        assert done and len(users(home)) == 1
        age(users(home)[0], 50)
        with freeing(home) as (_, in_use_since):
            assert in_use_since < users(home)[0].stat().st_mtime
    assert users(home) == []


def test_what_becomes_pinned_meanwhile_stays(home: Home) -> None:
    """By a bundle that is loaded, and done, before the users of the cache are looked at."""
    age_file(home, CONTENTS[0], 50)
    asked = []

    def pinned() -> frozenset[str]:
        with pytest.raises(ConfigurationError, match="using the cache"):
            move_cache(home, home.path.parent / "disk")  # it is asked below the lock, not before
        asked.append(1)
        return frozenset({sha256(CONTENTS[0])})

    done = collect(home, pinned=pinned)
    assert asked and done.freed == () and done.pinned == len(CONTENTS[0])


# --- what killed commands left ----------------------------------------------------------------------------------------


def test_what_a_killed_command_left_half_way_goes_at_once(home: Home) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from medperf_core import Site;"
        "site = Site.open(Path(sys.argv[1])); site.cache.temporary().write_bytes(bytes(5000));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with Site.open(home.path) as site:  # one that runs since before
        assert site.cache_dir
        assert subprocess.run([sys.executable, "-c", program, home.path], check=False).returncode == -9
        assert collect(home, keep=1 << 40).rests == 0
        (left,) = (site.cache.root / "temp").iterdir()
    then = left.stat().st_ctime - 100

    class Later(Cache):
        """As if the file system's clock had gone on."""

        def leftovers(self, before: float | None = None) -> list[tuple[Path, int]]:
            assert before is not None and before > then
            return super().leftovers(before + 1000)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_gc, "Cache", Later)
        assert collect(home, keep=1 << 40, dry_run=True).rests == 5000 and left.exists()
        assert collect(home, keep=1 << 40).rests == 5000 and not left.exists()
        assert collect(home, keep=1 << 40).rests == 0


def test_lock_files_go_when_nobody_uses_the_cache(home: Home) -> None:
    files = home.cache_dir / "files"
    with Site.open(home.path) as site:
        with site.cache.partials.taken("x:y", "a" * 64):
            pass
        with FileLock(step_lock(home, "ab" * 32)):
            pass
        collect(home)
        there = [*(files / "locks").iterdir(), *(files / "partial").glob("*.lock"), *home.locks.glob("step-*")]
        assert len(there) > 2
    collect(home, dry_run=True)
    assert all(path.exists() for path in there)
    collect(home)
    assert not any(path.exists() for path in there)
    state(home)


def test_everything_goes(home: Home) -> None:
    with Site.open(home.path) as site:
        put(site, b"")
    for path in (*home.cache_dir.rglob("*.json"), home.cache_dir / "process" / ("cd" * 32)):
        age(path, 1)
    assert collect(home, keep=-1).left == 0
    assert contents(home.cache_dir) == []


# --- network disks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_disk_without_locks_is_said_to_be_one(code: int, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    for use in (lambda: Site.open(home.path).cache_dir, lambda: collect(home), lambda: move_cache(home, home.path)):
        with pytest.raises(ConfigurationError, match=f"cannot be locked: {os.strerror(code)}.*network disk"):
            use()
    with pytest.raises(ConfigurationError, match="cannot be locked"), locked(home.locks / "x.lock", "x"):
        pass


def test_a_disk_that_locks_some_files_only(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def flock(descriptor: int, kind: int) -> None:
        if kind == fcntl.LOCK_EX:
            raise OSError(errno.ENOLCK, "No locks available")
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigurationError, match="cannot be locked"):
        assert Site.open(home.path).cache_dir
    assert users(home) == []


def test_a_cache_that_cannot_be_written(home: Home) -> None:
    users = home.cache_dir / "users"
    for path in users.iterdir():
        path.unlink()
    users.rmdir()
    users.write_text("no folder")
    with Site.open(home.path) as site, pytest.raises(ConfigurationError, match=r"cache.* cannot be used: File exists"):
        assert site.cache_dir


def test_a_command_on_another_machine_counts_for_some_days(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network disk does not show its lock."""
    there = home.cache_dir / "users" / f"{'0' * 12}.77.{'1' * 16}"
    there.touch()
    age(there, 1)
    age_file(home, CONTENTS[0], 2)
    age_file(home, CONTENTS[1], 0.5)
    assert [item.name for item in collect(home, older_than=0.4).freed] == [sha256(CONTENTS[0])]
    with Site.open(home.path) as site:
        assert site.cache.file(sha256(CONTENTS[1])) is not None and there.exists()
    with pytest.raises(ConfigurationError, match="another machine") as caught:
        move_cache(home, home.path.parent / "disk")
    assert str(there) in str(caught.value)
    age(there, ABANDONED_SECONDS / (24 * 3600))
    collect(home)
    assert not there.exists()


def test_a_step_that_runs_does_not_stop_verify(home: Home) -> None:
    with FileLock(step_lock(home, "ab" * 32)):
        checking = threading.Thread(target=verify_all, args=(home, home.cache_dir), daemon=True)
        checking.start()
        checking.join(60)
        assert not checking.is_alive()
