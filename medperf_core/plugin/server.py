"""The server-client seam: who keeps the metadata, and who am I there. A client speaks entities."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import attrs

from medperf_core.entities import Approval, Association, Entity, Model, User

E = TypeVar("E", bound=Entity)


class Party(StrEnum):
    """Which side of a benchmark an association is with."""

    MODEL = "model"
    DATASET = "dataset"


@attrs.frozen
class Login:
    """What a login gave. The site stores ``credentials`` where only its user can read them.

    Attributes:
        user: who is logged in.
        credentials: what the client needs next time; text only. All but ``username`` and ``email`` are kept out of
            logs and errors.
        expires: UTC, ISO 8601; None if it does not.
    """

    user: User
    credentials: Mapping[str, str]
    expires: str | None = None


@attrs.frozen
class Submission:
    """A change that is ready to be sent: shown word for word, approved, then handed back to ``send``.

    Attributes:
        action: what it does, such as ``create model`` or ``update association``.
        target: what it acts on, such as ``model my-model`` or ``association of model 4 with benchmark 1``.
        body: the exact bytes that leave this machine, UTF-8 JSON.
        route: the client's own note of where it goes; opaque to everybody else.
    """

    action: str
    target: str
    body: bytes
    route: str


Ask = Callable[[str, bool, tuple[str, ...]], str]
"""Asks the person: (question, whether the answer is secret, the possible answers or () for any) -> answer."""


class ServerPromise(StrEnum):
    """What a server client says of itself beyond what every one does. The conformance kit tries each one given."""

    RESEND = "resend"
    """What comes again with the ``client_uuid`` in its metadata is not made twice: the answer is the first one's."""


class ServerClient(abc.ABC):
    """A client of one server, made for one site."""

    promises: ClassVar[frozenset[ServerPromise]] = frozenset()
    """What it does beyond what every client does."""
    address: str
    """The server as the profile names it."""
    trusted_addresses: bool = False
    """Whether addresses in its replies may reach ``file:`` and loopback: only for a server that is a file here."""

    @abc.abstractmethod
    def login(self, user: str | None, ask: Ask) -> Login:
        """Log in, asking for what is needed. ``user`` is a user name or e-mail address, None to ask.

        Raises:
            AuthenticationError: the server does not know or accept this user.
        """

    @abc.abstractmethod
    def logout(self) -> None:
        """End the login at the server. The site forgets the credentials."""

    @abc.abstractmethod
    def me(self) -> User:
        """The logged-in user.

        Raises:
            AuthenticationError: nobody is logged in or the login is no longer valid.
        """

    @abc.abstractmethod
    def get(self, kind: type[E], uid: int) -> E:
        """The entity of this kind with this server UID.

        Raises:
            NotFoundError: there is none.
        """

    @abc.abstractmethod
    def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
        """All entities of a kind, in order of their UIDs; ``filters`` are exact matches of fields."""

    @abc.abstractmethod
    def model_of(self, container_uid: int) -> Model:
        """The model that wraps a container.

        Raises:
            NotFoundError: no model wraps it.
        """

    @abc.abstractmethod
    def associations(self, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
        """The latest association of each pair that the logged-in user owns a side of, oldest first.

        Args:
            party: with models or with datasets.
            benchmark: only those with this benchmark.
        """

    @abc.abstractmethod
    def draft_create(self, thing: Entity | Association) -> Submission:
        """What would be sent to register a new entity or to ask for (or withdraw) an association."""

    @abc.abstractmethod
    def draft_update(self, kind: type[Entity], uid: int, changes: Mapping[str, Any]) -> Submission:
        """What would be sent to change fields of an entity."""

    @abc.abstractmethod
    def draft_answer(self, party: Party, uid: int, benchmark: int, answer: Approval) -> Submission:
        """What would be sent to approve or reject the pending association of a model or dataset."""

    @abc.abstractmethod
    def send(self, submission: Submission) -> Entity | Association:
        """Send a draft as it is and return what the server made of it.

        Raises:
            InvalidEntityError, NotFoundError: the server refused it; all of its reasons are in the message.
            PermissionDeniedError: this user may not do this.
            ServerError: no answer that could be read came, so that nobody knows whether it was taken.
        """
