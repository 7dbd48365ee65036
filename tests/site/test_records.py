"""Records of compatibility tests."""

from __future__ import annotations

import stat
from pathlib import Path

import attrs
import pytest

from medperf_core.entities import StepRecord, TestReport
from medperf_core.errors import InvalidEntityError, NotFoundError, UsageError
from medperf_core.site.home import Home
from medperf_core.site.records import Records

STEP = StepRecord(
    task="infer",
    container="4 (m)",
    images=["config:sha256:" + "a" * 64],
    inputs={"data": "b" * 64},
    seconds=1.5,
    peak_memory=3,
)


def report(uid: str, day: int = 1) -> TestReport:
    return TestReport(
        uid=uid,
        created_at=f"2026-01-{day:02}T00:00:00Z",
        benchmark=1,
        data_preparator="1",
        model="./m",
        evaluator="3",
        demo_dataset={"hash": "c" * 64},
        prepared_hash="d" * 64,
        platform="process",
        steps=[STEP],
        results={"auc": 0.5, "name": "ä"},
    )


OLD, NEW, OTHER = report("a" * 16, 1), report("ab" * 8, 3), report("b" * 16, 2)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    records = Records(Home.open(tmp_path / "home"))
    assert records.list().reports == ()
    for item in (OLD, NEW, OTHER):
        records.save(item)
    return records


def test_what_is_saved_is_listed_newest_first(records: Records) -> None:
    listing = records.list()
    assert listing.reports == (NEW, OTHER, OLD)
    assert listing.damaged == {}


def test_a_repeated_test_replaces_its_report(records: Records) -> None:
    again = attrs.evolve(OLD, created_at="2026-02-01T00:00:00Z")
    file = records.save(again)
    assert records.list().reports == (again, NEW, OTHER)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_get_by_uid_or_its_beginning(records: Records) -> None:
    assert records.get("a" * 16) == OLD
    assert records.get("ab") == NEW
    assert records.get("b") == OTHER
    with pytest.raises(UsageError, match=f"{'a' * 16}, {'ab' * 8}"):
        records.get("a")
    for uid in ("c", "", "../a", "*"):
        with pytest.raises(NotFoundError, match="a" * 16):
            records.get(uid)


def test_no_reports_to_get(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none"):
        Records(Home.open(tmp_path)).get("a")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uid": 3}', b"\xff", "[" * 99_999])
def test_a_damaged_record_is_named_and_the_others_are_listed(records: Records, text: str | bytes) -> None:
    file = records.save(OTHER)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    listing = records.list()
    assert listing.reports == (NEW, OLD)
    assert list(listing.damaged) == [file.name]
    with pytest.raises(InvalidEntityError, match=file.name):
        records.get("b")


def test_a_record_under_another_name_is_damaged(records: Records) -> None:
    file = records.save(OTHER)
    file.rename(file.with_name("c" * 16 + ".json"))
    assert "b" * 16 in records.list().damaged["c" * 16 + ".json"]


@pytest.mark.parametrize("uid", ["../../x", "", "A" * 16, "a" * 17])
def test_s15_a_uid_never_becomes_a_path(records: Records, uid: str) -> None:
    with pytest.raises(InvalidEntityError):
        records.save(report(uid))
