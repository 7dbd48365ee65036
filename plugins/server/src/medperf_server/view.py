"""The entities of one transaction, read and written over an SQLAlchemy connection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import attrs
from sqlalchemy import Connection, Select, func, insert, or_, select, update

from medperf_core.entities import Asset, Association, Container, Model, User
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import InvalidEntityError, ServerError, UsageError
from medperf_core.plugin import Party
from medperf_server.rules.common import label
from medperf_server.tables import TABLES, associations, benchmarks, datasets, models

T = TypeVar("T")
_NESTED: dict[str, type[Any]] = {"container": Container, "asset": Asset}
_LARGEST = 2**63 - 1


class View:
    """What the rules see (``rules.Entities``), and the store's way to write what they return."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def get(self, kind: type[T], uid: int) -> T | None:
        if not 0 < uid <= _LARGEST:
            return None
        return next(iter(self.find(kind, id=uid)), None)

    def find(self, kind: type[T], **fields: Any) -> Sequence[T]:
        return self.page(kind, fields)

    def page(self, kind: type[T], fields: dict[str, Any], *, after: int = 0, limit: int | None = None) -> list[T]:
        """Entities whose fields equal the given ones, with UIDs above ``after``, in order of UIDs."""
        table = TABLES[kind]
        wanted = [table.c[name] == value for name, value in fields.items()]
        return self._load(kind, select(table).where(table.c.id > after, *wanted).order_by(table.c.id).limit(limit))

    def latest(self, party: Party, uid: int, benchmark: int) -> Association | None:
        table = associations
        rows = select(table).where(table.c[party.value] == uid, table.c.benchmark == benchmark)
        return next(iter(self._load(Association, rows.order_by(table.c.id.desc()).limit(1))), None)

    def pairs(self, party: Party, *, benchmark: int | None = None, side: int | None = None) -> list[Association]:
        """The latest association of each pair, oldest first.

        Args:
            benchmark: only those with this benchmark.
            side: only those of which this user owns a side.
        """
        table, component = associations, models if party is Party.MODEL else datasets
        column = table.c[party.value]
        latest = select(func.max(table.c.id)).where(column.is_not(None)).group_by(column, table.c.benchmark)
        rows = select(table).where(table.c.id.in_(latest)).order_by(table.c.id)
        if benchmark is not None:
            rows = rows.where(table.c.benchmark == benchmark)
        if side is not None:
            rows = (
                rows.join(benchmarks, benchmarks.c.id == table.c.benchmark)
                .join(component, component.c.id == column)
                .where(or_(benchmarks.c.owner == side, component.c.owner == side))
            )
        return self._load(Association, rows)

    def insert(self, thing: T, client_uuid: str | None = None) -> T:
        """Keep a new entity, a model together with what it wraps, and return it with its UID."""
        kept: Any = thing
        for field, inner in _wrapped(kept).items():
            kept = attrs.evolve(kept, **{field: self.insert(inner)})
        values = _values(kept)
        if not isinstance(kept, User):
            values["client_uuid"] = client_uuid
        rows = insert(TABLES[type(thing)]).values(values).returning(TABLES[type(thing)].c.id)
        return cast(T, attrs.evolve(kept, id=self.connection.execute(rows).scalar_one()))

    def replace(self, thing: T) -> T:
        """Keep a changed entity, a model together with what it wraps."""
        kept: Any = thing
        for inner in _wrapped(kept).values():
            self.replace(inner)
        table = TABLES[type(kept)]
        self.connection.execute(update(table).where(table.c.id == kept.id).values(_values(kept)))
        return thing

    def _load(self, kind: type[T], rows: Select[Any]) -> list[T]:
        try:
            found = [dict(row) for row in self.connection.execute(rows).mappings()]
            if kind is Model:
                for field, inner in _NESTED.items():
                    self._nest(found, field, inner)
            return [from_data(row, kind, allow_unknown=True) for row in found]
        except (ValueError, InvalidEntityError) as error:
            raise ServerError(
                f"The registry's record of a {label(kind)} cannot be read: {error}.",
                hint="The registry is damaged; restore it from a backup.",
            ) from error

    def _nest(self, rows: list[dict[str, Any]], field: str, kind: type[Any]) -> None:
        table = TABLES[kind]
        wanted = select(table).where(table.c.id.in_([row[field] for row in rows if row[field] is not None]))
        inner = {each.id: to_data(each) for each in self._load(kind, wanted)}
        for row in rows:
            row[field] = inner.get(row[field])


def check_filters(kind: type[Any], filters: dict[str, Any]) -> dict[str, Any]:
    """``filters`` as columns of the kind hold them.

    Raises:
        UsageError: there is no such field to filter by, or a value is not of its type.
    """
    columns = TABLES[kind].c
    known = {
        name: columns[name].type.python_type
        for name in attrs.fields_dict(kind)
        if name in columns and columns[name].type.python_type in (str, int, bool)
    }
    for name, value in filters.items():
        if name not in known:
            raise UsageError(
                f"A list of {label(kind)}s cannot be filtered by {name!r}.",
                hint=f"It can by: {', '.join(sorted(known))}.",
            )
        if not isinstance(value, known[name]) or (known[name] is int and isinstance(value, bool)):
            raise UsageError(f"The filter {name}={value!r} must be of type {known[name].__name__}.")
    return {name: str(value) if known[name] is str else value for name, value in filters.items()}


def _wrapped(thing: Any) -> dict[str, Any]:
    if not isinstance(thing, Model):
        return {}
    return {field: getattr(thing, field) for field in _NESTED if getattr(thing, field) is not None}


def _values(thing: Any) -> dict[str, Any]:
    values: dict[str, Any] = to_data(thing)
    del values["id"]
    values |= {field: inner.id for field, inner in _wrapped(thing).items()}
    if isinstance(thing, Container):
        content = [
            thing.image_hash,
            thing.additional_files_tarball_hash,
            thing.container_config,
            thing.parameters_config,
        ]
        values["fingerprint"] = hashlib.sha256(to_json(content)).hexdigest()
    return values
