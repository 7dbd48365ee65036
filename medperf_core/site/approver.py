"""Who says yes or no before anything leaves the site."""

from __future__ import annotations

from typing import Protocol

import attrs


@attrs.frozen
class Answer:
    """What was decided.

    Attributes:
        yes: whether the bytes may leave.
        how: who decided, for the audit log: ``person``, ``--yes``, ``program``, or ``nobody`` for the default.
    """

    yes: bool
    how: str


class Approver(Protocol):
    """Asked before anything leaves the site. An embedding program brings its own."""

    def approve(self, what: str, target: str, body: bytes) -> Answer | bool:
        """Decide.

        Args:
            what: what would be sent, such as ``create model: model my-model``.
            target: the server that would get it.
            body: the exact bytes.

        Returns:
            An answer; a bare bool counts as decided by the approver's attribute ``how`` or, without one, ``program``.
        """


class DenyAll:
    """Nobody is there to ask: no. The default."""

    def approve(self, what: str, target: str, body: bytes) -> Answer:
        return Answer(False, "nobody")


@attrs.frozen
class ApproveAll:
    """Yes to everything.

    Attributes:
        how: who decided that beforehand.
    """

    how: str = "program"

    def approve(self, what: str, target: str, body: bytes) -> Answer:
        return Answer(True, self.how)


def ask(approver: Approver, what: str, target: str, body: bytes) -> Answer:
    """The approver's answer in full."""
    given = approver.approve(what, target, body)
    if isinstance(given, Answer):
        return given
    return Answer(given is True, str(getattr(approver, "how", "program")))
