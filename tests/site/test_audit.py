"""The audit log: chain, head, every kind of tampering, and what a kill may leave behind."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_core.errors import InvalidEntityError, VerificationError
from medperf_core.site.audit import ZERO, AuditEntry, AuditHead, AuditLog, Event


def entry(number: int, event: Event = Event.SENDING, of: int | None = None) -> AuditEntry:
    return AuditEntry(
        event=event,
        action="create model",
        target=f"model {number}",
        server="https://host",
        user="me",
        sha256=f"{number:064x}",
        size=number,
        approved_by="person",
        of=of,
    )


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit")
    for number in range(1, 6):
        log.append(entry(number))
    return log


def lines(log: AuditLog) -> list[bytes]:
    return (log.folder / "log.jsonl").read_bytes().splitlines(keepends=True)


def write(log: AuditLog, content: list[bytes]) -> None:
    (log.folder / "log.jsonl").write_bytes(b"".join(content))


def test_an_empty_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    assert log.head() == AuditHead(0, ZERO) == log.verify()
    assert log.entries() == ()


def test_entries_are_numbered_dated_and_chained(log: AuditLog) -> None:
    entries = log.entries()
    assert [item.n for item in entries] == [1, 2, 3, 4, 5]
    assert [item.target for item in entries] == [f"model {number}" for number in range(1, 6)]
    assert entries[0].prev == ZERO
    assert len({item.prev for item in entries}) == 5
    assert all(item.time.endswith("Z") for item in entries)
    outcome = log.append(entry(5, Event.ACKNOWLEDGED, of=5))
    assert (outcome.n, outcome.of) == (6, 5)
    assert log.entries()[-1] == outcome
    assert log.head().count == 6


def test_files_are_private(log: AuditLog) -> None:
    assert {stat.S_IMODE(file.stat().st_mode) for file in log.folder.iterdir()} == {0o600}
    assert stat.S_IMODE(log.folder.stat().st_mode) == 0o700


def _edit(number: int, old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def change(text: list[bytes]) -> list[bytes]:
        assert old in text[number]
        return [*text[:number], text[number].replace(old, new), *text[number + 1 :]]

    return change


TAMPERINGS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "first changed": (_edit(0, b'"model 1"', b'"model 9"'), "entry 2 does not follow"),
    "middle changed": (_edit(2, b'"size":3', b'"size":4'), "entry 4 does not follow"),
    "last changed": (_edit(4, b'"person"', b'"--yes"'), "last entries were changed"),
    "spaces": (_edit(4, b'"size":5', b'"size": 5'), "line 5 is not an entry"),
    "key added": (_edit(4, b'"size":5', b'"size":5,"x":1'), "line 5 is not an entry"),
    "key twice": (_edit(4, b'"size":5', b'"size":4,"size":5'), "line 5 is not an entry"),
    "no JSON": (lambda text: [*text[:2], b"\n", *text[2:]], "line 3 is not an entry"),
    "first removed": (lambda text: text[1:], "line 1 is entry 2"),
    "middle removed": (lambda text: text[:2] + text[3:], "line 3 is entry 4"),
    "reordered": (lambda text: [text[0], text[2], text[1], *text[3:]], "line 2 is entry 3"),
    "doubled": (lambda text: [*text[:2], text[1], *text[2:]], "line 3 is entry 2"),
    "tail cut": (lambda text: text[:-1], "its end was cut off"),
    "tail cut by two": (lambda text: text[:-2], "its end was cut off"),
    "last line torn": (lambda text: [*text[:-1], text[-1][:-1]], "its end was cut off"),
    "emptied": (lambda text: [], "its end was cut off"),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found_and_nothing_is_added_to_it(log: AuditLog, kind: str) -> None:
    change, words = TAMPERINGS[kind]
    write(log, change(lines(log)))
    before = lines(log)
    for use in (log.verify, log.entries, log.head, lambda: log.append(entry(9))):
        with pytest.raises(VerificationError, match=words):
            use()
    assert lines(log) == before


def test_a_removed_log_is_found(log: AuditLog) -> None:
    (log.folder / "log.jsonl").unlink()
    with pytest.raises(VerificationError, match="cut off"):
        log.append(entry(9))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (None, "last entries were changed"),
        (b"{", "head file is damaged"),
        (b'{"count":-1,"head":"' + b"0" * 64 + b'"}', "head file is damaged"),
        (b'{"count":3,"head":"' + b"0" * 64 + b'"}', "last entries were changed"),
        (b'{"count":4,"head":"' + b"0" * 64 + b'"}', "last entries were changed"),
        (b'{"count":5,"head":"' + b"0" * 64 + b'"}', "last entries were changed"),
    ],
)
def test_a_changed_head_is_found(log: AuditLog, head: bytes | None, words: str) -> None:
    if head is None:
        (log.folder / "head.json").unlink()
    else:
        (log.folder / "head.json").write_bytes(head)
    with pytest.raises(VerificationError, match=words):
        log.verify()


def test_a_log_and_head_written_anew_are_found_by_what_a_server_has_seen(tmp_path: Path, log: AuditLog) -> None:
    seen = log.head()
    log.append(entry(6))
    assert log.verify(seen, AuditHead()).count == 6
    forged = AuditLog(tmp_path / "forged")
    for number in (1, 2, 3, 4, 9, 6):
        forged.append(entry(number))
    forged.verify()
    with pytest.raises(VerificationError, match="entry 5 or one before it"):
        forged.verify(seen)
    short = AuditLog(tmp_path / "short")
    short.append(entry(1))
    with pytest.raises(VerificationError, match="ends after entry 1, but entry 5 was seen"):
        short.verify(seen)
    with pytest.raises(InvalidEntityError):
        AuditHead(1, "x")


KILLED = """
import os, signal, sys
from pathlib import Path
from medperf_core.site import audit
log = audit.AuditLog(Path(sys.argv[1]))
log.verify()
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before head":
    audit.AuditLog._write_head = die
else:
    whole = audit.AuditLog._write
    def half(self, at, line):
        whole(self, at, line[:len(line) // 2])
        die()
    audit.AuditLog._write = half
log.append(audit.AuditEntry(event="sending", action="a", target="killed", server="s", user="u", sha256="0" * 64,
                            size=1))
"""


@pytest.mark.parametrize("instance", ["same", "new"])
def test_several_entries_are_written_at_once(log: AuditLog, instance: str) -> None:
    before = log.head()
    added = log.append_all([entry(number) for number in (6, 7, 8)])
    assert [each.n for each in added] == [6, 7, 8]
    reader = log if instance == "same" else AuditLog(log.folder)
    assert reader.entries()[5:] == tuple(added)
    assert reader.verify(before, AuditHead(8, reader.head().head)).count == 8
    assert log.append_all([]) == []
    assert log.append(entry(9)).n == 9


def test_what_was_checked_before_is_checked_again_if_it_changed(log: AuditLog) -> None:
    log.verify()
    file = log.folder / "log.jsonl"
    file.write_bytes(file.read_bytes().replace(b"model 2", b"model 7"))
    with pytest.raises(VerificationError, match="does not follow"):
        log.verify()


def test_more_lines_than_were_announced_are_found(log: AuditLog) -> None:
    head = log.folder / "head.json"
    old = head.read_bytes()
    log.append_all([entry(6), entry(7)])
    head.write_bytes(old)
    with pytest.raises(VerificationError, match="put in"):
        AuditLog(log.folder).verify()


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.5, 1), (0.9, 2), (1.0, 3)])
def test_a_kill_among_several_entries_is_recovered_from(tmp_path: Path, share: float, kept: int) -> None:
    log = AuditLog(tmp_path / "audit")
    log.append(entry(0))
    code = KILLED.replace("len(line) // 2", "int(len(line) * float(sys.argv[3]))").replace("log.append(", "one = (")
    code += "log.append_all([one] * 3)\n"
    process = subprocess.run([sys.executable, "-c", code, str(log.folder), "in the line", str(share)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert log.head().count == 1 + kept
    assert log.append(entry(9)).n == 2 + kept
    assert AuditLog(log.folder).head().count == 2 + kept


@pytest.mark.parametrize("entries_before", [0, 3])
@pytest.mark.parametrize(("moment", "kept"), [("before head", 1), ("in the line", 0)])
def test_a_kill_is_recovered_from(tmp_path: Path, entries_before: int, moment: str, kept: int) -> None:
    log = AuditLog(tmp_path / "audit")
    for number in range(entries_before):
        log.append(entry(number))
    head_before = log.head()
    for _ in range(2):
        process = subprocess.run([sys.executable, "-c", KILLED, str(log.folder), moment], check=False)
        assert process.returncode == -signal.SIGKILL
    assert log.head().count == entries_before + 2 * kept
    log.verify(head_before)
    added = log.append(entry(9))
    assert added.n == entries_before + 2 * kept + 1
    assert [item.target for item in log.entries()].count("killed") == 2 * kept
    assert json.loads((log.folder / "head.json").read_bytes())["count"] == added.n


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medperf_core.site.audit import *\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "for n in range(20): log.append(AuditEntry(event='sending', action='a', target=sys.argv[2], server='s',\n"
        "                                          user='u', sha256='0' * 64, size=1))"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "audit"), name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    targets = [item.target for item in AuditLog(tmp_path / "audit").entries()]
    assert (targets.count("a"), targets.count("b")) == (20, 20)
