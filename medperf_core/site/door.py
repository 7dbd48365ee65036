"""What all that leaves the site passes: shown to a person, offered to policies, written to the audit log beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from medperf_core.errors import DeniedError
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.site.approver import Approver, ask
from medperf_core.site.audit import AuditEntry, AuditLog, Event
from medperf_core.site.redact import Redactor

NOTE_LIMIT = 500


@attrs.frozen(kw_only=True)
class Leaving:
    """Something that is about to leave.

    Attributes:
        action, target: for people and the audit log, such as ``create model`` and ``model my-model``.
        to: where it goes: the address of a server or of a store, without secrets.
        user: who is logged in there; "" for nobody in particular.
        body: the exact bytes of a submission; for files, the list that says what they are.
        benchmark: UID of the benchmark that it is for; None if it is for none.
        details: more for policies; plain data.
    """

    action: str
    target: str
    to: str
    user: str
    body: bytes
    benchmark: int | None = None
    details: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def what(self) -> str:
        """One line for people."""
        return f"{self.action}: {self.target}"

    @property
    def entry(self) -> AuditEntry:
        """The entry that says that it is about to be sent."""
        return AuditEntry(
            event=Event.SENDING,
            action=self.action,
            target=self.target,
            server=self.to,
            user=self.user,
            sha256=hashlib.sha256(self.body).hexdigest(),
            size=len(self.body),
        )


class Door:
    """The door of one site.

    Args:
        approver: is shown everything word for word.
        policies: raises if an action is not allowed.
        audit: of the site.
        redact: keeps secrets out of the reasons that go into the audit log.
    """

    def __init__(
        self,
        approver: Approver,
        policies: Callable[[Action, PolicySubject], None],
        audit: AuditLog,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self._approver = approver
        self._policies = policies
        self._audit = audit
        self._redact = redact or Redactor()

    def ask(self, leaving: Leaving) -> str:
        """Who approved it.

        Raises:
            DeniedError: the person or a policy said no, which is in the audit log.
        """
        denied = attrs.evolve(leaving.entry, event=Event.DENIED)
        answer = ask(self._approver, leaving.what, leaving.to, leaving.body)
        if not answer.yes:
            self._audit.append(attrs.evolve(denied, approved_by=answer.how))
            raise DeniedError(
                f"Nothing was sent: {leaving.what} was not approved.",
                hint="It leaves this site only after a yes, from a person or by --yes.",
            )
        subject = PolicySubject(
            what=leaving.what,
            benchmark=leaving.benchmark,
            details={
                "action": leaving.action,
                "target": leaving.target,
                "server": leaving.to,
                "user": leaving.user,
                "body": leaving.body.decode(),
                "sha256": denied.sha256,
                **leaving.details,
            },
        )
        try:
            self._policies(Action.SEND, subject)
        except Exception as error:  # whatever it is, an error denies
            self._audit.append(attrs.evolve(denied, approved_by="policy", note=self.reason(error)))
            if isinstance(error, DeniedError):
                raise
            raise DeniedError(
                f"Nothing was sent: a policy failed on {leaving.what} ({error}), and an error denies."
            ) from error
        return answer.how

    def reason(self, error: BaseException) -> str:
        """An error as a note for the audit log, without secrets."""
        return self._redact(f"{type(error).__name__}: {error}")[:NOTE_LIMIT]
