"""The registry on SQLite or PostgreSQL: each call applies the rules in one transaction, one writer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, create_engine, event, func, insert, inspect, make_url, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from medperf_core.entities import Association, Benchmark, Container, Entity, Model, Result, User
from medperf_core.errors import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UsageError,
)
from medperf_core.plugin import Party
from medperf_server import rules
from medperf_server.rules import visibility
from medperf_server.tables import METADATA, SCHEMA_VERSION, TABLES, schema_version
from medperf_server.view import View, check_filters

T = TypeVar("T")
E = TypeVar("E", bound=Entity)
FIRST_USER = User(username="admin", is_admin=True)
"""The administrator of a new registry, who adds all other users."""
_PAGE = 200
_WRITERS = 0x6D656470657266  # the advisory lock that PostgreSQL's writers take; any number that is always the same


def utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """A registry in a database of its own.

    Reads and writes name the user who acts, whose ``username`` is enough; who that is and what that user may do is
    looked up in the same transaction.

    Args:
        url: SQLAlchemy URL, ``sqlite:////absolute/path`` or ``postgresql+psycopg://...``. An empty database gets
            its tables and ``FIRST_USER`` at once.
        wait: how long a writer waits for the others, in seconds.
        clock: gives the time that entities are stamped with.

    Raises:
        ServerError: the database cannot be reached, is damaged or newer, or belongs to something else.
    """

    def __init__(self, url: str | URL, *, wait: float = 30, clock: Callable[[], datetime] = utc_now) -> None:
        address = make_url(url)
        self._name = str(address.database) if address.get_backend_name() == "sqlite" else str(address)
        self._wait, self._clock = wait, clock
        self._sqlite = address.get_backend_name() == "sqlite"
        if self._sqlite:
            self._engine = create_engine(address, poolclass=NullPool, connect_args={"timeout": wait})
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        elif address.get_backend_name() == "postgresql":
            self._engine = create_engine(address, pool_pre_ping=True)
        else:
            raise ConfigurationError(
                f"A registry cannot be kept in {address.get_backend_name()}.", hint="Use SQLite or PostgreSQL."
            )
        with self._transaction() as view:
            ready = self._is_ready(view.connection)
        if not ready:
            self._make_tables()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def people(self) -> Sequence[User]:
        """All users, for a program that has to find out who acts; not to be shown to any of them."""
        with self._transaction() as view:
            return view.find(User)

    def user(self, actor: User) -> User:
        """The actor, as the registry knows it."""
        with self._acting(actor) as (who, _):
            return who

    def users(self, actor: User) -> Sequence[User]:
        """The users that the actor may see."""
        with self._acting(actor) as (who, view):
            return [user for user in view.find(User) if visibility.may_see(who, user, view)]

    def get(self, actor: User, kind: type[T], uid: int) -> T:
        """The entity or user with this UID, as the actor may see it.

        Raises:
            NotFoundError: there is none.
            PermissionDeniedError: the actor may not see it.
        """
        with self._acting(actor) as (who, view):
            found = rules.existing(view, kind, uid)
            if isinstance(found, (User, Result)) and not visibility.may_see(who, found, view):
                raise PermissionDeniedError(f"{who.username} may not see {rules.label(kind)} {uid}.")
            return visibility.shown(who, found, view)

    def list(self, actor: User, kind: type[E], *, mine: bool = False, **filters: Any) -> Iterator[E]:
        """The entities that the actor may see, in order of UIDs.

        Args:
            mine: only the actor's own.
            filters: fields that hold text, numbers or yes/no, and the values that they have to equal.

        Raises:
            UsageError: there is no such kind to list, or no such filter.
        """
        if kind not in TABLES or not issubclass(kind, Entity):
            raise UsageError(f"A registry has no list of {kind.__name__}.")
        return self._pages(actor, kind, mine, check_filters(kind, filters))

    def _pages(self, actor: User, kind: type[E], mine: bool, fields: dict[str, Any]) -> Iterator[E]:
        after = 0
        while after >= 0:
            with self._acting(actor) as (who, view):
                if mine and fields.setdefault("owner", who.id) != who.id:
                    return
                page = view.page(kind, fields, after=after, limit=_PAGE)
                visible = [
                    visibility.shown(who, each, view)
                    for each in page
                    if not isinstance(each, Result) or visibility.may_see(who, each, view)
                ]
            after = page[-1].uid if len(page) == _PAGE else -1
            yield from visible

    def model_of(self, actor: User, container_uid: int) -> Model:
        """The model that wraps a container.

        Raises:
            NotFoundError: no model wraps it, or there is no such container.
        """
        with self._acting(actor) as (_, view):
            rules.existing(view, Container, container_uid)
            for model in view.find(Model, container=container_uid):
                return model
        raise NotFoundError(
            f"No model of the registry wraps container {container_uid}.",
            hint="It may be a data preparator or an evaluator.",
        )

    def associations(self, actor: User, party: Party, *, benchmark: int | None = None) -> Sequence[Association]:
        """The latest association of each pair that the actor owns a side of, oldest first; of every pair for
        administrators."""
        with self._acting(actor) as (who, view):
            return view.pairs(party, benchmark=benchmark, side=None if who.is_admin else who.id)

    def participants(self, actor: User, party: Party, benchmark: int) -> Sequence[Association]:
        """The latest association of each model (dataset) with a benchmark, oldest first.

        Raises:
            PermissionDeniedError: the actor neither owns the benchmark nor an approved dataset (model) of it.
        """
        with self._acting(actor) as (who, view):
            found = rules.existing(view, Benchmark, benchmark)
            if not visibility.may_see_participants(who, found, party, view):
                raise PermissionDeniedError(
                    f"{who.username} may not see the {party}s of benchmark {benchmark}; its "
                    "owner and those who take part in it may."
                )
            return view.pairs(party, benchmark=benchmark)

    def create(self, actor: User, draft: T) -> T:
        """Register a user, an entity or an association, and return what the registry made of it.

        One that comes again, with a ``metadata.client_uuid`` that this user gave before, is returned as it is.

        Raises:
            RefusedError, PermissionDeniedError, NotFoundError: the rules are against it; nothing was changed.
        """
        with self._acting(actor, write=True) as (who, view):
            uuid = None if isinstance(draft, User) else rules.client_uuid(draft)
            if uuid is not None:
                owner = "initiated_by" if isinstance(draft, Association) else "owner"
                for earlier in view.find(type(draft), client_uuid=uuid, **{owner: who.id}):
                    return rules.resent(draft, earlier)
            return view.insert(rules.create(who, draft, view, self._now()), uuid)

    def update(self, actor: User, kind: type[T], uid: int, changes: Mapping[str, Any]) -> T:
        """Change fields of a user or an entity: plain data by field name.

        Raises:
            RefusedError, PermissionDeniedError, NotFoundError: the rules are against it; nothing was changed.
        """
        with self._acting(actor, write=True) as (who, view):
            changed = view.replace(rules.update(who, kind, uid, changes, view, self._now()))
            return visibility.shown(who, changed, view)

    def update_association(
        self, actor: User, party: Party, uid: int, benchmark: int, changes: Mapping[str, Any]
    ) -> Association:
        """Answer the pending request of a model or dataset, or set a model's priority.

        Raises:
            RefusedError, PermissionDeniedError, NotFoundError: the rules are against it; nothing was changed.
        """
        with self._acting(actor, write=True) as (who, view):
            return view.replace(rules.update_association(who, party, uid, benchmark, changes, view, self._now()))

    def _now(self) -> str:
        return self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    @contextmanager
    def _acting(self, actor: User, *, write: bool = False) -> Iterator[tuple[User, View]]:
        """A transaction, with the actor as the registry knows it now."""
        with self._transaction(write=write) as view:
            found = next(iter(view.find(User, username=actor.username)), None)
            if found is None or actor.id not in (None, found.id):
                raise AuthenticationError(
                    f"The registry {self._name} does not know the user {actor.username!r}.", hint="Log in again."
                )
            yield found, view

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[View]:
        options: dict[str, Any] = {"medperf_write": write}
        if not self._sqlite:
            # A writer holds the lock before its first look, and each statement then sees what the last one left.
            options["isolation_level"] = "READ COMMITTED" if write else "REPEATABLE READ"
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                if write and not self._sqlite:
                    connection.execute(text(f"set local lock_timeout = {int(self._wait * 1000)}"))
                    connection.execute(select(func.pg_advisory_xact_lock(_WRITERS)))
                yield View(connection)
        except SQLAlchemyError as error:
            reason = str(error.orig if isinstance(error, DBAPIError) else error).strip()
            raise ServerError(
                f"The registry {self._name} cannot be used: {reason}.",
                hint="If others are writing to it, try again; if it is damaged, restore a backup; "
                "look at its permissions and at the room on its disk.",
            ) from error

    def _is_ready(self, connection: Connection) -> bool:
        names = inspect(connection).get_table_names()
        if not names:
            return False
        if schema_version.name not in names:
            raise ServerError(
                f"{self._name} is a database of something else: it holds the table {names[0]!r}.",
                hint="Give the registry an empty database of its own.",
            )
        versions = connection.execute(select(schema_version.c.version)).scalars().all()
        if versions != [SCHEMA_VERSION]:
            found = ", ".join(map(str, versions)) or "none"
            raise ServerError(
                f"The registry {self._name} has the schema version {found}; this program knows {SCHEMA_VERSION}.",
                hint="Update medperf-server; nothing was changed.",
            )
        return True

    def _make_tables(self) -> None:
        with self._transaction(write=True) as view:
            if not self._is_ready(view.connection):  # no other process was faster
                METADATA.create_all(view.connection)
                view.connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
                view.insert(FIRST_USER)


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver's guess
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("medperf_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
