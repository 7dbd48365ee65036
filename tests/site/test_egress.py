"""The one door out: what is shown, approved, logged and kept, and that nothing is sent twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest

from medperf_core.entities import Approval, Association, Entity, Model, Result, User
from medperf_core.entities.codec import from_data, to_json
from medperf_core.errors import (
    DeniedError,
    InvalidEntityError,
    MedperfError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
)
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.plugin.server import Ask, Login, Party, ServerClient, Submission
from medperf_core.site.approver import Answer, ApproveAll, Approver, DenyAll
from medperf_core.site.audit import AuditHead, AuditLog, Event
from medperf_core.site.egress import EgressGate
from medperf_core.site.home import Home
from medperf_core.site.outbox import Outbox

E = TypeVar("E", bound=Entity)
RESULT = Result(benchmark=3, model=4, dataset=5, results={"auc": 0.5}, metadata={"note": "x"})
ASKED = Association(benchmark=3, model=4, metadata={"test_result": {"auc": 0.5}})


class FaultyServer(ServerClient):
    """Keeps what it is sent in memory. ``fault`` is raised instead of an answer, before or after it was taken."""

    address = "https://host"

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.things: list[Entity | Association] = []
        self.fault: BaseException | None = None
        self.takes_it_first = False
        self.read_fault: BaseException | None = None

    def login(self, user: str | None, ask: Ask) -> Login:
        return Login(self.me(), {})

    def logout(self) -> None:
        return None

    def me(self) -> User:
        return User(id=1, username="me")

    def get(self, kind: type[E], uid: int) -> E:
        return next(thing for thing in self.things if isinstance(thing, kind) and thing.id == uid)

    def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
        assert mine
        if self.read_fault:
            raise self.read_fault
        yield from (thing for thing in self.things if isinstance(thing, kind))

    def model_of(self, container_uid: int) -> Model:
        raise NotFoundError("none")

    def associations(self, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
        return [
            thing
            for thing in self.things
            if isinstance(thing, Association)
            and thing.benchmark == benchmark
            and (thing.model is not None) == (party is Party.MODEL)
        ]

    def draft_create(self, thing: Entity | Association) -> Submission:
        kind = type(thing).__name__
        return Submission(f"create {kind.lower()}", "the thing", to_json(thing), kind)

    def draft_update(self, kind: type[Entity], uid: int, changes: Mapping[str, Any]) -> Submission:
        return Submission("update", f"{uid}", to_json(dict(changes)), f"{kind.__name__} {uid}")

    def draft_answer(self, party: Party, uid: int, benchmark: int, answer: Approval) -> Submission:
        return Submission("answer", f"{party} {uid}", to_json({"approval_status": answer}), f"answer {uid} {benchmark}")

    def send(self, submission: Submission) -> Entity | Association:
        self.sent.append(submission.body)
        if self.fault and not self.takes_it_first:
            raise self.fault
        data = json.loads(submission.body)
        kind, *rest = submission.route.split()
        if kind == "answer":
            thing: Entity | Association = Association(id=9, model=int(rest[0]), benchmark=int(rest[1]), **data)
        elif rest:
            thing = attrs.evolve(RESULT, id=int(rest[0]), **data)
        else:
            thing = from_data(
                {**data, "id": len(self.things) + 1},
                {"Result": Result, "Association": Association, "Model": Model}[kind],
            )
            self.things.append(thing)
        if self.fault:
            raise self.fault
        return thing


class Watching:
    """Approves and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str, bytes]] = []

    def approve(self, what: str, target: str, body: bytes) -> Answer:
        self.shown.append((what, target, body))
        return Answer(True, "person")


class Door:
    """A gate with everything around it in sight."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.server = FaultyServer()
        self.audit = AuditLog(home.audit_dir)
        self.outbox = Outbox(home)
        self.asked: list[tuple[Action, PolicySubject]] = []
        self.approver = Watching()

    def gate(
        self, approver: Approver | None = None, policies: Callable[[Action, PolicySubject], None] | None = None
    ) -> EgressGate:
        def note(action: Action, subject: PolicySubject) -> None:
            self.asked.append((action, subject))

        return EgressGate(self.server, approver or self.approver, policies or note, self.audit, self.outbox, "me")

    @property
    def events(self) -> list[tuple[str, int | None, str]]:
        return [(item.event.value, item.of, item.approved_by) for item in self.audit.entries()]


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(Home.open(tmp_path / "home"))


def uuid_in(body: bytes) -> str:
    return str(json.loads(body)["metadata"]["client_uuid"])


def test_what_is_approved_is_what_is_sent_and_logged(door: Door) -> None:
    made = door.gate().create(RESULT)
    [(what, target, body)] = door.approver.shown
    assert (what, target) == ("create result: the thing", "https://host")
    assert door.server.sent == [body]
    assert made.id == 1
    metadata = json.loads(body)["metadata"]
    assert metadata["note"] == "x"
    assert metadata["audit"] == {"count": 0, "head": "0" * 64}
    sending, acknowledged = door.audit.entries()
    assert (sending.event, sending.approved_by, sending.size) == (Event.SENDING, "person", len(body))
    assert (sending.action, sending.target, sending.server, sending.user) == (
        "create result",
        "the thing",
        "https://host",
        "me",
    )
    assert (acknowledged.event, acknowledged.of, acknowledged.note) == (Event.ACKNOWLEDGED, 1, "result 1")
    assert sending.sha256 == acknowledged.sha256
    assert door.outbox.list() == ()


def test_each_submission_carries_where_the_audit_log_was(door: Door) -> None:
    door.gate().create(RESULT)
    door.gate().create(RESULT)
    first, second = (json.loads(body)["metadata"] for body in door.server.sent)
    assert first["client_uuid"] != second["client_uuid"]
    assert second["audit"]["count"] == 2
    door.audit.verify(AuditHead(**first["audit"]), AuditHead(**second["audit"]))


def test_policies_see_the_body_and_the_benchmark(door: Door) -> None:
    door.gate().create(RESULT)
    door.gate().create(ASKED, benchmark=8)
    [(action, subject), (_, other)] = door.asked
    assert action is Action.SEND
    assert subject.benchmark == 3
    assert other.benchmark == 8
    assert subject.details["body"].encode() == door.server.sent[0]
    assert (subject.details["server"], subject.details["action"]) == ("https://host", "create result")


@pytest.mark.parametrize(
    "send",
    [
        lambda gate: gate.create(RESULT),
        lambda gate: gate.create(ASKED),
        lambda gate: gate.update(Result, 1, {"results": {}}),
        lambda gate: gate.answer(Party.MODEL, 4, 3, Approval.APPROVED),
    ],
)
def test_without_a_yes_nothing_leaves(door: Door, send: Callable[[EgressGate], object]) -> None:
    with pytest.raises(DeniedError, match="was not approved"):
        send(door.gate(DenyAll()))
    assert door.server.sent == []
    assert door.events == [("denied", None, "nobody")]
    assert door.outbox.list() == ()
    assert door.asked == []


@pytest.mark.parametrize("error", [DeniedError("not this benchmark"), ZeroDivisionError("broken"), ServerError("odd")])
def test_a_policy_that_denies_or_fails_lets_nothing_leave(door: Door, error: Exception) -> None:
    def refuse(action: Action, subject: PolicySubject) -> None:
        raise error

    with pytest.raises(DeniedError, match=str(error)):
        door.gate(policies=refuse).create(RESULT)
    assert door.server.sent == []
    assert door.events == [("denied", None, "policy")]
    assert str(error) in door.audit.entries()[0].note


def test_who_approved_is_in_the_log(door: Door) -> None:
    door.gate(ApproveAll("--yes")).create(RESULT)
    assert door.events == [("sending", None, "--yes"), ("acknowledged", 1, "")]


LOST = [ServerError("no connection", hint="Look."), OSError("cable"), KeyboardInterrupt()]


@pytest.mark.parametrize("thing", [RESULT, ASKED])
@pytest.mark.parametrize("fault", LOST)
def test_what_never_arrived_is_sent_again_under_the_same_uuid(
    door: Door, thing: Result | Association, fault: BaseException
) -> None:
    door.server.fault = fault
    with pytest.raises(type(fault)):
        door.gate().create(thing)
    [kept] = door.outbox.list()
    assert kept.body.encode() == door.server.sent[0]
    assert kept.client_uuid == uuid_in(door.server.sent[0])
    door.server.fault = None
    made = door.gate().create(thing)
    assert made.metadata["client_uuid"] == kept.client_uuid
    assert len(door.server.things) == 1
    assert door.outbox.list() == ()
    assert [event for event, _, _ in door.events] == ["sending", "failed", "sending", "acknowledged"]


@pytest.mark.parametrize("thing", [RESULT, ASKED])
@pytest.mark.parametrize("fault", LOST)
def test_what_arrived_without_an_answer_is_found_and_not_sent_again(
    door: Door, thing: Result | Association, fault: BaseException
) -> None:
    door.server.fault, door.server.takes_it_first = fault, True
    with pytest.raises(type(fault)):
        door.gate().create(thing)
    door.server.fault = None
    made = door.gate(DenyAll()).create(thing)  # nothing leaves, so nobody is asked
    assert made.id == 1
    assert len(door.server.sent) == 1
    assert door.outbox.list() == ()
    assert door.events[-1] == ("acknowledged", 1, "")
    assert "found there" in door.audit.entries()[-1].note


def test_the_error_says_that_repeating_is_safe(door: Door) -> None:
    door.server.fault = ServerError("No connection to host.", hint="Check it.")
    with pytest.raises(ServerError) as caught:
        door.gate().create(RESULT)
    assert "Check it." in str(caught.value)
    assert "the same command sends it again, without making a second one" in str(caught.value)
    door.server.read_fault = ServerError("No connection to host.")
    with pytest.raises(ServerError, match="without making a second one"):
        door.gate().create(RESULT)
    assert len(door.outbox.list()) == 1


@pytest.mark.parametrize("fault", [InvalidEntityError("bad"), PermissionDeniedError("not you"), NotFoundError("gone")])
def test_what_the_server_refused_is_not_kept(door: Door, fault: MedperfError) -> None:
    door.server.fault = fault
    with pytest.raises(type(fault)) as caught:
        door.gate().create(RESULT)
    assert "outbox" not in str(caught.value)
    assert door.outbox.list() == ()
    assert [event for event, _, _ in door.events] == ["sending", "refused"]


def test_other_content_is_another_submission(door: Door) -> None:
    door.server.fault = ServerError("lost")
    with pytest.raises(ServerError):
        door.gate().create(RESULT)
    door.server.fault = None
    made = door.gate().create(attrs.evolve(RESULT, results={"auc": 0.6}))
    assert made.metadata["client_uuid"] != door.outbox.list()[0].client_uuid
    assert len(door.outbox.list()) == 1


def test_a_no_on_the_second_try_keeps_what_may_have_arrived(door: Door) -> None:
    door.server.fault = ServerError("lost")
    with pytest.raises(ServerError):
        door.gate().create(RESULT)
    with pytest.raises(DeniedError):
        door.gate(DenyAll()).create(RESULT)
    assert len(door.outbox.list()) == 1


def test_updates_and_answers_are_kept_and_repeated(door: Door) -> None:
    update = {"results": {"auc": 0.7}, "metadata": {"client_uuid": "u", "note": "y"}}
    sends: list[Callable[[], Entity | Association]] = [
        lambda: door.gate().update(Result, 1, update),
        lambda: door.gate().answer(Party.MODEL, 4, 3, Approval.APPROVED),
    ]
    for send in sends:
        door.server.fault = ServerError("lost")
        for _ in range(2):
            with pytest.raises(ServerError, match="outbox"):
                send()
        assert len(door.outbox.list()) == 1
        door.server.fault = None
        send()
        assert door.outbox.list() == ()
    body = json.loads(door.server.sent[0])
    assert body["metadata"] == {"client_uuid": "u", "note": "y", "audit": {"count": 0, "head": "0" * 64}}
    assert json.loads(door.server.sent[-1]) == {"approval_status": "APPROVED"}
    assert update["metadata"] == {"client_uuid": "u", "note": "y"}


def test_updates_of_other_fields_leave_the_metadata(door: Door) -> None:
    door.gate().update(Result, 1, {"finalized": True})
    assert json.loads(door.server.sent[0]) == {"finalized": True}


def test_a_changed_audit_log_lets_nothing_leave(door: Door) -> None:
    door.gate().create(RESULT)
    (door.home.audit_dir / "log.jsonl").write_bytes(b"")
    with pytest.raises(MedperfError, match="audit log"):
        door.gate().create(RESULT)
    with pytest.raises(MedperfError, match="audit log"):
        door.gate().answer(Party.MODEL, 4, 3, Approval.APPROVED)
    assert len(door.server.sent) == 1


def test_reasons_in_the_log_hold_no_secrets_and_are_short(door: Door) -> None:
    door.server.fault = ServerError("Authorization: Bearer abcdefgh " + "x" * 5000)
    with pytest.raises(ServerError):
        door.gate().create(RESULT)
    note = door.audit.entries()[-1].note
    assert "abcdefgh" not in note
    assert len(note) <= 500
