"""The one door out: shown, approved, offered to policies, written to the audit log, kept until acknowledged, sent.

Every new entity or association carries ``metadata.client_uuid``, by which a repeated command finds what an earlier one
got through, and ``metadata.audit`` (``count`` and ``head`` of the audit log when it was drafted). Updates carry the
audit stamp if they change ``metadata``; answers have no room for either. Both may be sent twice without harm.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from medperf_core.entities import Approval, Association, Entity
from medperf_core.errors import (
    InvalidEntityError,
    MedperfError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
)
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.plugin.server import Party, ServerClient, Submission
from medperf_core.site.approver import Approver
from medperf_core.site.audit import AuditLog, Event
from medperf_core.site.door import Door, Leaving
from medperf_core.site.outbox import Outbox, Pending, content_key

E = TypeVar("E", bound=Entity)
T = TypeVar("T", bound=Entity | Association)

REFUSALS = (InvalidEntityError, PermissionDeniedError, NotFoundError)
"""The server's no. After any other error it may or may not have the submission."""

KEPT = "It is kept in the outbox: the same command sends it again, without making a second one."


class EgressGate:
    """The door of one site to one server.

    Args:
        server: the client that sends.
        approver: is shown every submission word for word.
        policies: raises if an action is not allowed.
        audit, outbox: of the site.
        user: who is logged in at the server.
        redact: keeps secrets out of the reasons that go into the audit log.
    """

    def __init__(
        self,
        server: ServerClient,
        approver: Approver,
        policies: Callable[[Action, PolicySubject], None],
        audit: AuditLog,
        outbox: Outbox,
        user: str,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self._server = server
        self._door = Door(approver, policies, audit, redact)
        self._audit = audit
        self._outbox = outbox
        self._user = user

    def create(self, thing: T, *, benchmark: int | None = None) -> T:
        """Register a new entity, or ask for an association. If the outbox has the same, from a command that got no
        answer, the server is asked first whether it arrived; then nothing is sent.

        Args:
            thing: as it is to be; its ``client_uuid`` and ``audit`` are set here.
            benchmark: UID of the benchmark that it is for, for policies; known of associations and results.

        Raises:
            DeniedError: the person or a policy said no; nothing was sent.
            InvalidEntityError, PermissionDeniedError, NotFoundError: the server refused it.
            ServerError: no answer came; it is kept in the outbox.
        """
        kind = type(thing)
        if benchmark is None:
            benchmark = getattr(thing, "benchmark", None)
        key = self._key(f"create {kind.__name__}", thing)
        with self._outbox.claim(key):
            earlier = self._outbox.same(key)
            if earlier is not None:
                found = self._arrived(thing, earlier)
                if found is not None:
                    return found
            client_uuid = earlier.client_uuid if earlier else str(uuid.uuid4())
            stamps = {"client_uuid": client_uuid, "audit": self._stamp()}
            stamped = attrs.evolve(thing, metadata={**thing.metadata, **stamps})
            made = self._send(self._server.draft_create(stamped), client_uuid, key, benchmark)
        return self._expected(made, kind)

    def update(self, kind: type[E], uid: int, changes: Mapping[str, Any], *, benchmark: int | None = None) -> E:
        """Change fields of an entity at the server. Raises as ``create`` does."""
        key = self._key(f"update {kind.__name__} {uid}", {"metadata": {}, **changes})
        if isinstance(changes.get("metadata"), Mapping):
            changes = {**changes, "metadata": {**changes["metadata"], "audit": self._stamp()}}
        made = self._again(key, lambda: self._server.draft_update(kind, uid, changes), benchmark)
        return self._expected(made, kind)

    def answer(self, party: Party, uid: int, benchmark: int, answer: Approval) -> Association:
        """Approve or reject the pending association of a model or dataset; one that has this answer already is
        returned as it is. Raises as ``create`` does.
        """
        key = self._key(f"answer {party.value} {uid} {benchmark}", answer.value)
        pairs = self._server.associations(party, benchmark=benchmark)
        latest = next((pair for pair in reversed(pairs) if uid in (pair.model, pair.dataset)), None)
        if latest is not None and latest.approval_status is answer:
            with self._outbox.claim(key):
                earlier = self._outbox.same(key)
                if earlier is not None:
                    self._settle(earlier, latest)
            return latest
        made = self._again(key, lambda: self._server.draft_answer(party, uid, benchmark, answer), benchmark)
        return self._expected(made, Association)

    def _key(self, action: str, content: Any) -> str:
        return content_key(self._server.address, self._user, action, content)

    def _stamp(self) -> dict[str, Any]:
        return attrs.asdict(self._audit.head())

    def _again(self, key: str, draft: Callable[[], Submission], benchmark: int | None) -> Entity | Association:
        with self._outbox.claim(key):
            earlier = self._outbox.same(key)
            client_uuid = earlier.client_uuid if earlier else str(uuid.uuid4())
            return self._send(draft(), client_uuid, key, benchmark)

    def _arrived(self, thing: T, earlier: Pending) -> T | None:
        """What the server made of an earlier attempt, if it reached it."""
        kind = type(thing)
        try:
            there = self._theirs(thing)
            found = next((item for item in there if item.metadata.get("client_uuid") == earlier.client_uuid), None)
        except ServerError as error:
            _add_hint(error, KEPT)
            raise
        if found is None:
            return None
        self._settle(earlier, found)
        return self._expected(found, kind)

    def _settle(self, earlier: Pending, found: Entity | Association) -> None:
        """Write down that an earlier attempt had reached the server, and forget it."""
        sent = Leaving(
            action=earlier.action,
            target=earlier.target,
            to=self._server.address,
            user=self._user,
            body=earlier.body.encode(),
        )
        note = f"{_name(found)}, found there"
        self._audit.append(attrs.evolve(sent.entry, event=Event.ACKNOWLEDGED, of=earlier.audit_entry, note=note))
        self._outbox.remove(earlier.client_uuid)

    def _theirs(self, thing: Entity | Association) -> list[Entity] | list[Association]:
        if isinstance(thing, Association):
            party = Party.MODEL if thing.model is not None else Party.DATASET
            return list(self._server.associations(party, benchmark=thing.benchmark))
        return list(self._server.list(type(thing), mine=True))

    def _send(self, submission: Submission, client_uuid: str, key: str, benchmark: int | None) -> Entity | Association:
        leaving = Leaving(
            action=submission.action,
            target=submission.target,
            to=self._server.address,
            user=self._user,
            body=submission.body,
            benchmark=benchmark,
        )
        entry = attrs.evolve(leaving.entry, approved_by=self._door.ask(leaving))
        number = self._audit.append(entry).n
        self._outbox.put(
            Pending(
                client_uuid=client_uuid,
                content_key=key,
                action=submission.action,
                target=submission.target,
                route=submission.route,
                body=submission.body.decode(),
                server=self._server.address,
                user=self._user,
                audit_entry=number,
            )
        )
        outcome = attrs.evolve(entry, of=number, approved_by="")
        try:
            made = self._server.send(submission)
        except REFUSALS as error:
            self._audit.append(attrs.evolve(outcome, event=Event.REFUSED, note=self._door.reason(error)))
            self._outbox.remove(client_uuid)
            raise
        except BaseException as error:
            self._audit.append(attrs.evolve(outcome, event=Event.FAILED, note=self._door.reason(error)))
            if isinstance(error, MedperfError):
                _add_hint(error, KEPT)
            raise
        self._audit.append(attrs.evolve(outcome, event=Event.ACKNOWLEDGED, note=_name(made)))
        self._outbox.remove(client_uuid)
        return made

    def _expected(self, made: Entity | Association, kind: type[T]) -> T:
        if not isinstance(made, kind):
            raise ServerError(
                f"The server {self._server.address} answered with a {type(made).__name__} where a "
                f"{kind.__name__} was expected.",
                hint="Look there whether it was taken.",
            )
        return made


def _name(made: Entity | Association) -> str:
    return f"{type(made).__name__.lower()} {made.id if made.id is not None else 'without a UID'}"


def _add_hint(error: MedperfError, hint: str) -> None:
    error.hint = f"{error.hint} {hint}" if error.hint else hint
