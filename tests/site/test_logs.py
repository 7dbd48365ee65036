"""Log files of commands and their bundle: private, bounded, and without secrets whoever logs them."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from medperf_core.errors import UsageError
from medperf_core.site import logs
from medperf_core.site.credentials import CredentialStore
from medperf_core.site.home import Home
from medperf_core.site.logs import KEPT_FILES, KEPT_TASK_FILES, CommandLog, PathHider, bundle, log_files, task_logs
from medperf_core.site.redact import Redactor

PLANTED = "pl4nted-value"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


@pytest.fixture(autouse=True)
def root_logger_is_left_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield
    assert (root.level, list(root.handlers)) == before


def read(home: Home) -> str:
    return "".join(file.read_text() for file in log_files(home.logs_dir))


def inside(file: Path) -> dict[str, str]:
    with tarfile.open(file) as tar:
        found = {}
        for member in tar.getmembers():
            stream = tar.extractfile(member)
            assert stream is not None
            found[member.name] = stream.read().decode()
        return found


def test_a_command_has_a_private_file_with_versions_and_words(home: Home) -> None:
    with CommandLog(home, Redactor(), command=("medperf", "--rest-token", PLANTED, "test")) as log:
        logging.getLogger("medperf_core.x").info("hello %s", "there")
        logging.getLogger("medperf_core.x").debug("not this")
    text = read(home)
    assert "INFO medperf_core.x: hello there" in text
    assert "not this" not in text
    assert "python 3." in text
    assert "'test']" in text
    assert PLANTED not in text
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    logging.getLogger("medperf_core.x").warning("too late")
    assert "too late" not in read(home)


@pytest.mark.parametrize("registered", [True, False])
def test_secrets_do_not_reach_the_log_or_the_bundle(
    home: Home, tmp_path: Path, registered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own ends a test at a broken message
    redact = Redactor()
    if registered:
        CredentialStore(home, redact.add).put("server", {"token": PLANTED})
    with CommandLog(home, redact, "debug") as log:
        if registered:
            logging.getLogger("medperf_core").info("it is %s", PLANTED)
            logging.getLogger("a.b").info("raw %s", {"x": [PLANTED]})
        logging.getLogger("urllib3.connectionpool").debug('GET "https://h/p?X-Amz-Signature=%s"', PLANTED)
        logging.getLogger("medperf_core.child.grandchild").info("headers: %s", {"Authorization": f"Token {PLANTED}"})
        logging.getLogger("requests").warning("https://me:%s@host/path", PLANTED)
        logging.getLogger("broken").info("%d tokens", f"token={PLANTED}")
        logging.getLogger("broken").info("token=%s", PLANTED, "too many")
        try:
            try:
                raise ValueError(f"token={PLANTED}")
            except ValueError as error:
                raise RuntimeError(f"Bearer {PLANTED}") from error
        except RuntimeError as error:
            error.add_note(f"password: {PLANTED}")
            log.unexpected(error)
            logging.getLogger("c").exception("while at it")
        logging.getLogger("d").info("stack token=%s", PLANTED, stack_info=True)
    text = read(home)
    assert PLANTED not in text
    for mark in ("RuntimeError", "ValueError", "Traceback", "test_logs.py", "broken", "https://[redacted]@host/path"):
        assert mark in text
    names = bundle(home, tmp_path / "b.tar.gz", redact)
    found = inside(tmp_path / "b.tar.gz")
    assert sorted(names) == sorted(found) == sorted(["versions.json", f"logs/{log.path.name}"])
    assert PLANTED not in "".join(found.values())


def test_nothing_is_said_on_the_terminal(
    home: Home, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with CommandLog(home, Redactor()) as log:
        logging.getLogger("x").info("%d", PLANTED)
    log.path.unlink()
    log.path.symlink_to("/dev/full")  # not followed, so that nothing can be written
    with log:
        logging.getLogger("x").error("cannot be written %s", PLANTED)
    assert capfd.readouterr() == ("", "")


def test_a_message_cannot_pass_for_another_record(home: Home) -> None:
    with CommandLog(home, Redactor()):
        logging.getLogger("x").info("evil\n2026-01-01 INFO y: forged\x1b[2J\r\u202egone\udc80")
    lines = read(home).splitlines()
    assert not any(line.startswith("2026-01-01 INFO y") for line in lines)
    assert "\x1b" not in read(home)
    assert "\u202e" not in read(home)
    assert any("\\x1b[2J\\x0d" in line for line in lines)


def test_files_are_bounded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_LIMIT", 2000)
    with CommandLog(home, Redactor()):
        for number in range(100):
            logging.getLogger("x").info("message %d %s", number, "." * 50)
    files = log_files(home.logs_dir)
    assert len(files) == 2
    assert all(file.stat().st_size < 2200 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert "message 99" in files[0].read_text()


def test_the_newest_files_are_kept(home: Home) -> None:
    for number in range(KEPT_FILES + 10):
        (home.logs_dir / f"medperf-20260101T{number:012}Z-1.log").write_text("")
    (home.logs_dir / "notes.txt").write_text("mine")
    (home.logs_dir / "tasks").mkdir()
    with CommandLog(home, Redactor()) as log:
        pass
    files = log_files(home.logs_dir)
    assert len(files) == KEPT_FILES
    assert files[0] == log.path
    assert files[-1].name == "medperf-20260101T000000000011Z-1.log"
    assert (home.logs_dir / "notes.txt").exists()


def task_log(home: Home, number: int, size: int = 1) -> Path:
    """The log of a task that ended ``number`` seconds after 1970."""
    file = home.logs_dir / "tasks" / f"sanity-check-2-{number:012x}.log"
    file.parent.mkdir(exist_ok=True)
    with file.open("wb") as stream:
        stream.truncate(size)
    os.utime(file, (number, number))
    return file


def test_the_newest_logs_of_tasks_are_kept(home: Home) -> None:
    for number in range(KEPT_TASK_FILES + 10):
        task_log(home, number)
    for name in ("notes.txt", "infer.log", "infer-123.log"):
        (home.logs_dir / "tasks" / name).write_text("mine")
    (home.logs_dir / "tasks" / "infer-0123456789ab.log").symlink_to("notes.txt")
    with CommandLog(home, Redactor()):
        pass
    found = task_logs(home.logs_dir)
    assert [(log.task, log.changed, log.size) for log in found] == [
        ("sanity-check-2", number, 1) for number in range(KEPT_TASK_FILES + 9, 9, -1)
    ]
    assert len(list((home.logs_dir / "tasks").iterdir())) == KEPT_TASK_FILES + 4


def test_logs_of_tasks_take_no_more_than_their_room(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [task_log(home, number, size) for number, size in enumerate((10, 400, 500, 100), 1)]
    monkeypatch.setattr(logs, "KEPT_TASK_BYTES", 1000)
    with CommandLog(home, Redactor()):
        pass
    assert [file.exists() for file in files] == [False, True, True, True]


def test_two_commands_have_two_files_and_two_sites_two_logs(home: Home) -> None:
    with CommandLog(home, Redactor()) as first:
        pass
    with CommandLog(home, Redactor(), "debug") as second:
        assert first.path != second.path


def test_s13_a_bundle_holds_logs_and_nothing_else(home: Home, tmp_path: Path) -> None:
    with CommandLog(home, Redactor()):
        logging.getLogger("x").info("here")
    (home.logs_dir / "tasks").mkdir()
    (home.logs_dir / "tasks" / "infer.log").write_text("patient 7")
    (tmp_path / "secret").write_text("linked")
    (home.logs_dir / "medperf-20260101T000000000000Z-1.log").symlink_to(tmp_path / "secret")
    for folder in (home.records_dir, home.outbox_dir, home.credentials_dir, home.audit_dir):
        (folder / "x.json").write_text("body")
    target = tmp_path / "out.tar.gz"
    names = bundle(home, target, Redactor(), {"engine": "docker 20"})
    found = inside(target)
    assert len(names) == 2
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    about = json.loads(found["versions.json"])
    assert about["engine"] == "docker 20"
    assert about["python"] == sys.version.split()[0]
    assert os.uname().nodename not in about["platform"]
    everything = "".join(found.values())
    assert "here" in everything
    assert not any(word in everything for word in ("patient", "linked", "body"))


def test_stored_credentials_are_known_to_every_log_and_bundle(home: Home, tmp_path: Path) -> None:
    (home.logs_dir / "medperf-20260101T000000000000Z-1.log").write_text(f"bare {PLANTED}")
    CredentialStore(home).put("server", {"token": PLANTED})
    CredentialStore(home).put("damaged", {})
    for file in home.credentials_dir.iterdir():
        if PLANTED not in file.read_text():
            file.write_text("{")
    with CommandLog(home, Redactor()) as log:
        logging.getLogger("x").info("bare %s", PLANTED)
    assert PLANTED not in log.path.read_text()
    bundle(home, tmp_path / "b", Redactor())
    assert PLANTED not in "".join(inside(tmp_path / "b").values())


def test_a_bundle_does_not_overwrite(home: Home, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        bundle(home, tmp_path / "there", Redactor())
    assert (tmp_path / "there").read_text() == "mine"
    with pytest.raises(UsageError, match="cannot be written"):
        bundle(home, tmp_path / "no" / "folder.tar.gz", Redactor())


def test_old_logs_are_redacted_again(home: Home, tmp_path: Path) -> None:
    (home.logs_dir / "medperf-20260101T000000000000Z-1.log").write_text(f"token={PLANTED} other-{PLANTED}")
    redact = Redactor()
    redact.add(f"other-{PLANTED}")
    bundle(home, tmp_path / "b", redact)
    assert PLANTED not in "".join(inside(tmp_path / "b").values())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("read /data/Jane/scan.dcm now", "read [path].dcm now"),
        ("read '/data/Jane Doe/a b.nii.gz'", "read '[path].nii.gz'"),
        ("read /data/Jane Doe/scan.dcm", "read [path].dcm"),
        ("volume -v /data/Jane:/mnt/x:ro", "volume -v [path]"),
        ("file:///data/Jane/x.csv", "file:[path].csv"),
        ("embedded:/srv/Jane/db", "embedded:[path]"),
        ("PosixPath('/data/Jane')", "PosixPath('[path]')"),
        ("data=/data/Jane, labels=/data/Joe.csv", "data=[path] labels=[path].csv"),
        ("~/Jane/x", "[path]"),
        ("/usr/lib/../../data/Jane", "[path]"),
        ("https://host/a/b.tar.gz and host:5000/name:tag", "https://host/a/b.tar.gz and host:5000/name:tag"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "/usr/lib/python3/x.py", line 3'),
        ("1/2 done, and/or 3 MB/s", "1/2 done, and/or 3 MB/s"),
        ("HOME/cache/x and HOME", "MEDPERF_HOME/cache/x and MEDPERF_HOME"),
        ("HOMELY/Jane", "[path]"),
    ],
)
def test_paths_of_this_machine_are_hidden(home: Home, text: str, clean: str) -> None:
    given = text.replace("HOME", str(home.path)) if text.startswith("HOME") else text
    assert PathHider(home, Redactor())(given) == clean
