"""``ls`` and ``view`` of what a server keeps; the same for every kind of entity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from medperf_core.cli.output import Column, Format, print_list, print_one
from medperf_core.cli.session import Session
from medperf_core.entities import Entity

E = TypeVar("E", bound=Entity)


def list_entities(
    session: Session,
    kind: type[E],
    columns: Sequence[Column[E]],
    output: Format,
    *,
    mine: bool = False,
    empty: str,
    **filters: Any,
) -> None:
    """Print all entities of a kind that the server shows to the logged-in user.

    Args:
        empty: the sentence for none.
        filters: fields and the values that they must have; None for any.
    """
    with session.opened() as site:
        wanted = {name: value for name, value in filters.items() if value is not None}
        found = list(site.server.list(kind, mine=mine, **wanted))
    print_list(found, columns, output, empty=empty)


def view_entity(session: Session, kind: type[E], uid: int, output: Format) -> None:
    """Print all fields of one entity."""
    with session.opened() as site:
        found = site.server.get(kind, uid)
    print_one(found, output)
