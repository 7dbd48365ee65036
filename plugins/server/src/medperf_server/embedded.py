"""The client of a registry that is a file on this machine: ``embedded:/path/to/registry.db``.

Whoever can read and write the file can be any of its users: there are no passwords, the file's permissions are the
protection. It serves one person who plays all roles, tests and tutorials; not a network.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medperf_core.entities import Approval, Association, Entity, Model, User
from medperf_core.errors import AuthenticationError, ConfigurationError, UsageError
from medperf_core.plugin import Ask, BackendContext, Login, Party, ServerClient, ServerPromise, Submission
from medperf_server import wire
from medperf_server.rules import label
from medperf_server.rules.associations import party_of

if TYPE_CHECKING:
    from medperf_server.store import Store

E = TypeVar("E", bound=Entity)
SCHEME = "embedded:"
_CREATE = re.compile(r"POST /([a-z]+)/")
_UPDATE = re.compile(r"PUT /([a-z]+)/([0-9]+)/")
_ASSOCIATE = re.compile(r"POST /(?:models|datasets)/benchmarks/")
_ANSWER = re.compile(r"PUT /(model|dataset)s/([0-9]+)/benchmarks/([0-9]+)/")


class EmbeddedClient(ServerClient):
    """The registry in the file that ``address`` names. ``login`` and ``add_user`` make a file that is not there,
    readable by its user only; whatever else is asked then, is refused.

    Args:
        address: ``embedded:`` and an absolute path or one that starts with ``~``; its folder must exist.
        context: tells who is logged in: ``credentials(address)`` holds ``username``.

    Raises:
        ConfigurationError: the address is not of that form.
    """

    trusted_addresses = True
    promises = frozenset({ServerPromise.RESEND})

    def __init__(self, address: str, context: BackendContext) -> None:
        self.address = address
        self._context = context
        path = Path(address.removeprefix(SCHEME))
        self.path = path.expanduser() if address.removeprefix(SCHEME).startswith("~") else path
        if not address.startswith(SCHEME) or not self.path.is_absolute():
            raise ConfigurationError(
                f"The server address {address!r} does not name a registry file.",
                hint="Write embedded: and an absolute path, such as embedded:/data/registry.db.",
            )

    @cached_property
    def _store(self) -> Store:
        from sqlalchemy import URL  # here and below: what only prints help does not wait for SQLAlchemy

        from medperf_server.store import Store

        try:
            kind = self.path.stat().st_mode
        except FileNotFoundError:
            raise ConfigurationError(
                f"There is no registry at {self.path}.",
                hint="Correct the server address of the profile, or make a new registry by logging in to it: "
                "medperf auth login --user admin",
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"The registry {self.path} cannot be used: {error.strerror}.",
                hint="Correct the server address of the profile, or the permissions.",
            ) from error
        if not stat.S_ISREG(kind):
            raise ConfigurationError(
                f"The registry {self.path} is not a file.", hint="Correct the server address of the profile."
            )
        return Store(URL.create("sqlite", database=str(self.path)))

    def _make_file(self) -> None:
        """Make an empty file, of which the store makes a registry, unless something is there."""
        if not self.path.parent.is_dir():
            raise ConfigurationError(
                f"The registry {self.path} cannot be made: its folder does not exist.",
                hint="Make the folder, or correct the server address of the profile.",
            )
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            pass  # it was made before, with the permissions that its user gave it since
        except OSError as error:
            raise ConfigurationError(
                f"The registry {self.path} cannot be made: {error.strerror}.",
                hint="Look at the permissions of its folder.",
            ) from error

    def login(self, user: str | None, ask: Ask) -> Login:
        self._make_file()
        people = self._store.people()
        names = tuple(person.username for person in people)
        asked = ask("Who are you?", False, names) if user is None else user
        found = [person for person in people if person.username == asked] or [
            person for person in people if person.email and person.email.casefold() == asked.casefold()
        ]
        if not found:
            raise AuthenticationError(
                f"The registry {self.path} does not know {asked!r}.", hint=f"It knows: {', '.join(names)}."
            )
        return Login(user=found[0], credentials={"username": found[0].username})

    def logout(self) -> None:
        """Nothing to do: a registry file keeps no logins."""

    def me(self) -> User:
        return self._store.user(self._actor)

    @property
    def _actor(self) -> User:
        """Who is logged in, by name only: the store reads the rest in the transaction that acts."""
        username = (self._context.credentials(self.address) or {}).get("username")
        if username is None:
            raise AuthenticationError(f"Nobody is logged in at {self.address}.", hint="Log in first.")
        return User(username=username)

    def add_user(self, user: User) -> User:
        """Add a user; for administrators, such as the ``admin`` that every new registry has.

        Raises:
            PermissionDeniedError: the logged-in user is no administrator.
            RefusedError: the name or e-mail address is another user's.
        """
        actor = self._actor
        self._make_file()
        return self._store.create(actor, user)

    def users(self) -> Sequence[User]:
        """The users that the logged-in one may see: all of them for administrators."""
        return self._store.users(self._actor)

    def get(self, kind: type[E], uid: int) -> E:
        return self._store.get(self._actor, kind, uid)

    def list(self, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
        return self._store.list(self._actor, kind, mine=mine, **filters)

    def model_of(self, container_uid: int) -> Model:
        return self._store.model_of(self._actor, container_uid)

    def associations(self, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
        return self._store.associations(self._actor, party, benchmark=benchmark)

    def participants(self, party: Party, benchmark: int) -> Sequence[Association]:
        """The latest association of each model (dataset) with a benchmark; see ``Store.participants``."""
        return self._store.participants(self._actor, party, benchmark)

    def draft_create(self, thing: Entity | Association) -> Submission:
        if isinstance(thing, Association):
            party, uid = party_of(thing)
            withdrawn = thing.approval_status is Approval.REJECTED
            return Submission(
                action="withdraw association" if withdrawn else "create association",
                target=_pair(party, uid, thing.benchmark),
                body=wire.new_body(thing),
                route=f"POST /{party}s/benchmarks/",
            )
        kind = label(type(thing))
        name = getattr(thing, "name", "")
        return Submission(
            action=f"create {kind}",
            target=f"{kind} {name}".rstrip(),
            body=wire.new_body(thing),
            route=f"POST /{_path(type(thing))}/",
        )

    def draft_update(self, kind: type[Entity], uid: int, changes: Mapping[str, Any]) -> Submission:
        return Submission(
            action=f"update {label(kind)}",
            target=f"{label(kind)} {uid}",
            body=wire.changes_body(kind, changes),
            route=f"PUT /{_path(kind)}/{uid}/",
        )

    def draft_answer(self, party: Party, uid: int, benchmark: int, answer: Approval) -> Submission:
        if answer is Approval.PENDING:
            raise UsageError("A request for association is answered by APPROVED or REJECTED.")
        return Submission(
            action="update association",
            target=_pair(party, uid, benchmark),
            body=wire.changes_body(Association, {"approval_status": answer}),
            route=f"PUT /{party}s/{uid}/benchmarks/{benchmark}/",
        )

    def send(self, submission: Submission) -> Entity | Association:
        """Apply a draft to the registry.

        Raises:
            RefusedError: the rules are against it; all reasons are listed. It is a ServerError.
            PermissionDeniedError: the logged-in user may not do this.
            NotFoundError: something that the draft acts on does not exist.
        """
        me, route, body = self._actor, submission.route, submission.body
        if _ASSOCIATE.fullmatch(route):
            return self._store.create(me, wire.read_new(Association, body))
        if match := _ANSWER.fullmatch(route):
            return self._store.update_association(
                me, Party(match[1]), int(match[2]), int(match[3]), wire.read_changes(body)
            )
        made: Entity
        if (match := _CREATE.fullmatch(route)) and match[1] in wire.KINDS:
            made = self._store.create(me, wire.read_new(wire.KINDS[match[1]], body))
            return made
        if (match := _UPDATE.fullmatch(route)) and match[1] in wire.KINDS:
            made = self._store.update(me, wire.KINDS[match[1]], int(match[2]), wire.read_changes(body))
            return made
        raise UsageError(f"The registry has no route {route!r}.", hint="Send a draft of this client as it is.")


def _pair(party: Party, uid: int, benchmark: int) -> str:
    return f"association of {party} {uid} with benchmark {benchmark}"


def _path(kind: type[Any]) -> str:
    if kind not in wire.PATHS:
        raise UsageError(f"A registry does not keep {kind.__name__}.")
    return wire.PATHS[kind]
