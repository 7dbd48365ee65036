"""The home folder: layout, versions, migrations, locks, room for the work in hand."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medperf_core.errors import ConfigurationError, UsageError
from medperf_core.site.home import Home, check_name, locked


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_home_is_private_and_has_all_folders(tmp_path: Path) -> None:
    old = os.umask(0o000)
    try:
        home = Home.open(tmp_path / "a" / "home")
    finally:
        os.umask(old)
    folders = (
        home.path,
        home.credentials_dir,
        home.cache_dir,
        home.temp_dir,
        home.records_dir,
        home.outbox_dir,
        home.audit_dir,
        home.logs_dir,
        home.locks,
    )
    assert {mode(folder) for folder in folders} == {0o700}
    assert (home.path / "version").read_text() == "1\n"
    assert not home.config_file.exists()


def test_an_empty_folder_becomes_a_private_home(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert mode(Home.open(tmp_path).path) == 0o700


def test_where_the_home_is(tmp_path: Path) -> None:
    assert Home.open(environment={"MEDPERF_HOME": str(tmp_path / "x")}).path == tmp_path / "x"
    assert Home.open(tmp_path / "y", environment={"MEDPERF_HOME": str(tmp_path / "x")}).path == tmp_path / "y"


def test_the_usual_place_is_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.open(environment={}).path == tmp_path / ".medperf"


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigurationError, match=r"thesis\.tex") as caught:
        Home.open(tmp_path)
    assert "MEDPERF_HOME" in str(caught.value)
    assert mode(tmp_path) == 0o755
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_newer_home_is_refused_and_not_touched(tmp_path: Path) -> None:
    Home.open(tmp_path)
    (tmp_path / "version").write_text("2\n")
    with pytest.raises(ConfigurationError, match=r"newer program.*Update medperf-core"):
        Home.open(tmp_path)
    assert (tmp_path / "version").read_text() == "2\n"


@pytest.mark.parametrize("text", ["", "one", "-1", "1.0", "9" * 40])
def test_a_version_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    Home.open(tmp_path)
    (tmp_path / "version").write_text(text)
    with pytest.raises(ConfigurationError, match="version number"):
        Home.open(tmp_path)


def test_an_older_home_is_migrated_with_a_backup(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    home.config_file.write_text("old")
    (home.cache_dir / "big").write_text("many bytes")

    def rename(path: Path) -> None:
        (path / "config.yaml").write_text("new")
        (path / "added").write_text("")

    steps = {1: rename, 2: lambda path: (path / "third").write_text("") and None}
    Home.open(tmp_path, version=3, migrations=steps)
    assert (tmp_path / "version").read_text() == "3\n"
    assert home.config_file.read_text() == "new"
    [backup] = (tmp_path / "backups").iterdir()
    assert (backup / "config.yaml").read_text() == "old"
    assert (backup / "version").read_text() == "1\n"
    assert not (backup / "cache").exists()
    assert mode(backup) == 0o700
    Home.open(tmp_path, version=3, migrations={})
    assert len(list((tmp_path / "backups").iterdir())) == 1


def test_a_migration_that_fails_leaves_the_home_as_it_was(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    home.config_file.write_text("old")
    (home.records_dir / "r").write_text("1")

    def half(path: Path) -> None:
        (path / "config.yaml").write_text("half")
        (path / "records" / "r").unlink()
        (path / "stray").write_text("")
        raise KeyError("surprise")

    with pytest.raises(ConfigurationError, match="as it was before") as caught:
        Home.open(tmp_path, version=3, migrations={1: lambda path: None, 2: half})
    assert "backups" in str(caught.value)
    assert home.config_file.read_text() == "old"
    assert (home.records_dir / "r").read_text() == "1"
    assert not (tmp_path / "stray").exists()
    assert (tmp_path / "version").read_text() == "1\n"
    Home.open(tmp_path)


def test_a_home_without_a_way_up_is_refused(tmp_path: Path) -> None:
    Home.open(tmp_path)
    with pytest.raises(ConfigurationError, match="too old"):
        Home.open(tmp_path, version=3, migrations={2: lambda path: None})
    assert not (tmp_path / "backups").exists()


def test_many_commands_may_make_the_home_at_once(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from medperf_core.site.home import Home; Home.open(Path('{tmp_path}/h'))"
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(6)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * 6


def test_work_dir_is_private_and_removed_even_if_read_only(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    with home.work_dir("test") as first, home.work_dir("test") as second:
        assert first != second
        assert mode(first) == 0o700
        (first / "d").mkdir()
        (first / "d" / "f").write_text("")
        (first / "d").chmod(0o500)
    assert list(home.temp_dir.iterdir()) == []
    with pytest.raises(RuntimeError), home.work_dir("test"):
        raise RuntimeError
    assert list(home.temp_dir.iterdir()) == []
    with pytest.raises(ValueError), home.work_dir("../x"):
        pass


def test_work_of_the_dead_is_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from medperf_core.site.home import Home\n"
        f"with Home.open(Path({str(tmp_path)!r})).work_dir('w') as path:\n"
        "    (path / 'file').write_text('x'); print(path, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    work = Path(process.stdout.readline().strip())
    try:
        home = Home.open(tmp_path)
        assert (work / "file").exists()
        # A process of the same number that began at another time is not its owner.
        parts = work.name.split(".")
        parts[3] = str(int(parts[3]) + 1)
        impostor = home.temp_dir / ".".join(parts)
        impostor.mkdir()
        elsewhere = home.temp_dir / ".".join([parts[0], "0" * 12, *parts[2:]])
        elsewhere.mkdir()
        Home.open(tmp_path)
        assert not impostor.exists()
        assert elsewhere.exists()
        os.utime(elsewhere, (time.time() - 8 * 24 * 3600,) * 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    Home.open(tmp_path)
    assert list(home.temp_dir.iterdir()) == []


def test_a_lock_keeps_others_out_and_says_what_is_locked(tmp_path: Path) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path / "l", "the thing"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with pytest.raises(ConfigurationError, match="using the thing"), locked(tmp_path / "l", "the thing", timeout=0.1):
        pass
    leave.set()
    thread.join()
    with locked(tmp_path / "l", "the thing", timeout=5):
        assert mode(tmp_path / "l") == 0o600


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x", "a b", "a\n", "x" * 65, "ä"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name, "a profile")
