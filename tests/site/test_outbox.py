"""The outbox: what is kept until the server has it, and what counts as the same."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities import Approval, Association, Result
from medperf_core.errors import ConfigurationError, NotFoundError
from medperf_core.site.home import Home
from medperf_core.site.outbox import Outbox, Pending, content_key


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def pending(**more: Any) -> Pending:
    values = {
        "client_uuid": str(uuid.uuid4()),
        "content_key": "k",
        "action": "create model",
        "target": "model m",
        "route": "/models/",
        "body": '{"name":"ä"}',
        "server": "https://host",
        "user": "me",
        "audit_entry": 1,
    }
    return Pending(**{**values, **more})


def test_put_list_get_same_remove(home: Home) -> None:
    outbox = Outbox(home)
    late, early = pending(time="2026-01-02T00:00:00Z", content_key="late"), pending(time="2026-01-01T00:00:00Z")
    for item in (late, early):
        outbox.put(item)
    assert Outbox(home).list() == (early, late)
    assert outbox.get(late.client_uuid) == late
    assert outbox.same("late") == late
    assert outbox.same("other") is None
    again = attrs.evolve(late, audit_entry=7)
    outbox.put(again)
    assert outbox.list() == (early, again)
    outbox.remove(early.client_uuid)
    outbox.remove(early.client_uuid)
    assert outbox.list() == (again,)
    with pytest.raises(NotFoundError, match=late.client_uuid):
        outbox.get("../x")
    assert {stat.S_IMODE(file.stat().st_mode) for file in home.outbox_dir.iterdir()} == {0o600}


def test_a_damaged_file_is_an_error_because_it_could_be_sent_twice(home: Home) -> None:
    outbox = Outbox(home)
    outbox.put(pending())
    good = next(home.outbox_dir.glob("*.json"))
    for name, text in ((f"{uuid.uuid4()}.json", "{"), (f"{uuid.uuid4()}.json", good.read_text()), ("x.json", "{}")):
        (home.outbox_dir / name).write_text(text)
        with pytest.raises(ConfigurationError, match=name):
            outbox.same("k")
        (home.outbox_dir / name).unlink()


def test_stamps_are_not_content_but_everything_else_is() -> None:
    result = Result(benchmark=1, model=2, dataset=3, results={"auc": 0.5}, metadata={"note": "x"})
    key = content_key("s", "u", "create", result)
    assert (
        content_key(
            "s",
            "u",
            "create",
            attrs.evolve(result, metadata={**result.metadata, "client_uuid": "1", "audit": {"count": 1}}),
        )
        == key
    )
    others = [
        content_key("t", "u", "create", result),
        content_key("s", "v", "create", result),
        content_key("s", "u", "update", result),
        content_key("s", "u", "create", attrs.evolve(result, metadata={**result.metadata, "note": "y"})),
        content_key("s", "u", "create", attrs.evolve(result, results={"auc": 0.6})),
    ]
    assert len({key, *others}) == 6


def test_an_association_is_known_by_who_takes_part() -> None:
    asked = Association(benchmark=1, model=2, metadata={"test_result": {"auc": 0.5}})
    key = content_key("s", "u", "create", asked)
    assert content_key("s", "u", "create", attrs.evolve(asked, metadata={"test_result": {"auc": 0.6}})) == key
    assert content_key("s", "u", "create", attrs.evolve(asked, model=3)) != key
    assert content_key("s", "u", "create", attrs.evolve(asked, approval_status=Approval.REJECTED)) != key
