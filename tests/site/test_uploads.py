"""Several files go up beside each other; the audit log stays whole, and the first failure ends it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_core.errors import CancelledError, TransferError
from medperf_core.plugin import BackendContext, Event, FetchInfo, FetchRequest, Progress, StepFinished, StepStarted
from medperf_core.plugin.storage import PutRequest, Sink, Storage, Stored
from medperf_core.site.approver import ApproveAll
from medperf_core.site.audit import AuditEntry, AuditLog
from medperf_core.site.door import Door
from medperf_core.site.uploads import SMALL, Outgoing, Uploads

PATIENCE = 30.0
Deed = Callable[[PutRequest, Callable[[int], None]], Stored]


class Store(Storage):
    """Does with a file what a test says."""

    def __init__(self, deed: Deed) -> None:
        self.deed = deed
        self.begun: list[str] = []

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        raise TransferError("Nothing is fetched here.")

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        self.begun.append(request.path.name)
        return self.deed(request, on_bytes)


Upload = Callable[[Store, list[Outgoing]], None]


def taken(request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
    on_bytes(request.size)
    return Stored(request.size, "1")


@pytest.fixture
def audit(tmp_path: Path) -> AuditLog:
    return AuditLog(tmp_path / "audit")


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def context(tmp_path: Path, told: list[Event]) -> BackendContext:
    return BackendContext(tmp_path / "cache", tmp_path / "temp", emit=told.append)


@pytest.fixture
def upload(audit: AuditLog, context: BackendContext) -> Upload:
    def run(store: Store, files: list[Outgoing]) -> None:
        door = Door(ApproveAll("test"), lambda action, subject: None, audit)
        Uploads(door, audit, context).upload(store, "store:place", files)

    return run


def files(*sizes: int) -> list[Outgoing]:
    return [
        Outgoing(
            f"{number}.bin",
            f"folder {number}",
            PutRequest(f"store:place/{number}.bin", Path(f"{number}.bin"), size, hashlib.sha256(b"").hexdigest()),
        )
        for number, size in enumerate(sizes)
    ]


def by_target(audit: AuditLog) -> dict[str, list[AuditEntry]]:
    found: dict[str, list[AuditEntry]] = {}
    for entry in audit.entries():
        found.setdefault(entry.target, []).append(entry)
    return found


def test_small_files_go_up_beside_each_other_at_most_eight(upload: Upload, audit: AuditLog) -> None:
    together = threading.Barrier(8)
    lock, now, most = threading.Lock(), 0, 0

    def deed(request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(PATIENCE)
        assert by_target(audit)[request.url][0].event.value == "sending"  # before a byte leaves
        on_bytes(request.size)
        together.wait(PATIENCE)
        with lock:
            now -= 1
        return Stored(request.size)

    upload(Store(deed), files(*[5] * 16))
    assert most == 8
    assert audit.verify().count == 32
    for number, entries in enumerate(sorted(by_target(audit).items())):
        target, (sending, outcome) = entries
        assert target.startswith("store:place/"), number
        assert (sending.event.value, outcome.event.value, outcome.of) == ("sending", "acknowledged", sending.n)


def test_large_files_go_up_one_at_a_time_after_the_small_ones(upload: Upload) -> None:
    under_way: list[str] = []

    def deed(request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        if request.size > SMALL:
            assert not under_way, "it is not alone"
        under_way.append(request.path.name)
        stored = taken(request, on_bytes)
        under_way.remove(request.path.name)
        return stored

    store = Store(deed)
    upload(store, files(SMALL + 1, 3, SMALL + 2, SMALL))
    assert sorted(store.begun[:2]) == ["1.bin", "3.bin"]
    assert store.begun[2:] == ["0.bin", "2.bin"]


def test_progress_is_one_count_for_all_that_only_grows(upload: Upload, told: list[Event]) -> None:
    def deed(request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        for _ in range(request.size):
            on_bytes(1)
        return Stored(request.size)

    upload(Store(deed), files(*[50] * 20))
    what = "Uploading 20 files to store:place"
    assert told[0] == StepStarted(what) and told[-1] == StepFinished(what)
    assert told[1:-1] == [Progress(what, done, 1000) for done in range(1, 1001)]


def test_the_first_failure_is_the_one_that_is_told_and_no_other_file_begins(upload: Upload, audit: AuditLog) -> None:
    together, failed = threading.Barrier(8), threading.Event()

    def deed(request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        together.wait(PATIENCE)
        if request.path.name == "0.bin":
            failed.set()
            raise TransferError("The disk is full.")
        assert failed.wait(PATIENCE)
        while True:  # until it hears of it
            on_bytes(0)

    store = Store(deed)
    with pytest.raises(TransferError, match=r"The disk is full\."):
        upload(store, files(*[5] * 100, SMALL + 1))
    assert len(store.begun) == 8
    assert audit.verify().count == 2 * 101
    for entries in by_target(audit).values():
        assert [entry.event.value for entry in entries] == ["sending", "failed"]
    notes = [entry.note for entry in audit.entries() if entry.event.value == "failed"]
    assert sum("The disk is full." in note for note in notes) == 1
    assert notes.count("it was not begun") == 93


def test_outcomes_are_written_while_it_goes_on(
    upload: Upload, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medperf_core.site.uploads.OUTCOME_SECONDS", -1.0)
    seen: list[int] = []

    def deed(request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        seen.append(audit.head().count)
        return taken(request, on_bytes)

    upload(Store(deed), files(*[SMALL + 1] * 3))
    assert seen == [3, 4, 5]


def test_a_cancelled_token_ends_all(
    upload: Upload, audit: AuditLog, context: BackendContext, told: list[Event]
) -> None:
    def deed(request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        context.cancel.cancel()
        on_bytes(1)
        return Stored(request.size)

    with pytest.raises(CancelledError):
        upload(Store(deed), files(*[5] * 50, SMALL + 1))
    assert not any(isinstance(event, Progress) for event in told)  # no byte left
    assert {entry.event.value for entry in audit.entries()} == {"sending", "failed"}
    assert len(by_target(audit)) == 51


def test_a_store_that_took_something_else_is_a_failure(upload: Upload, audit: AuditLog) -> None:
    with pytest.raises(TransferError, match="4 bytes after uploading 5"):
        upload(Store(lambda request, on_bytes: Stored(4)), files(5))
    assert [entry.event.value for entry in audit.entries()] == ["sending", "failed"]
