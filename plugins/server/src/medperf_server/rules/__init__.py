"""The registry's rules: pure functions of (actor, what is asked, the entities, now).

They decide and return; they know no database, no wire and no clock. ``create``, ``update`` and ``update_association``
find the rule of a kind; ``visibility`` says who sees what. A refusal is one error with all of its reasons:
``RefusedError``, ``PermissionDeniedError`` or ``NotFoundError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from medperf_core.entities import Asset, Association, Benchmark, Container, Dataset, Model, Result, User
from medperf_core.errors import UsageError
from medperf_server.rules import associations, benchmarks, containers, datasets, models, results, users
from medperf_server.rules.common import Entities, Kind, RefusedError, existing, label, name_of

T = TypeVar("T")

_CREATE: dict[Kind, Any] = {
    User: users.create,
    Container: containers.create,
    Asset: containers.create,
    Model: models.create,
    Dataset: datasets.create,
    Benchmark: benchmarks.create,
    Result: results.create,
    Association: associations.create,
}
_UPDATE: dict[Kind, Any] = {
    User: users.update,
    Container: containers.update,
    Asset: containers.update,
    Model: models.update,
    Dataset: datasets.update,
    Benchmark: benchmarks.update,
    Result: results.update,
}
update_association = associations.update

__all__ = [
    "Entities",
    "Kind",
    "RefusedError",
    "client_uuid",
    "create",
    "existing",
    "label",
    "resent",
    "update",
    "update_association",
]


def create(actor: User, draft: T, entities: Entities, now: str) -> T:
    """What the registry makes of ``draft``: complete but for its UID.

    Args:
        now: UTC, ISO 8601.

    Raises:
        RefusedError, PermissionDeniedError, NotFoundError: it may not be created.
    """
    return cast(T, _rule(_CREATE, type(draft))(actor, draft, entities, now))


def update(actor: User, kind: type[T], uid: int, changes: Mapping[str, Any], entities: Entities, now: str) -> T:
    """The entity as it is after ``changes`` (plain data by field name); nothing is written.

    Fields that only the registry sets, and unknown ones, are passed over, as the wire format wants it.

    Raises:
        RefusedError, PermissionDeniedError, NotFoundError: it may not be changed so.
    """
    return cast(T, _rule(_UPDATE, kind)(actor, existing(entities, kind, uid), changes, entities, now))


def client_uuid(draft: Any) -> str | None:
    """The UUID that its client gave a submission to know it again; None if there is none.

    Raises:
        RefusedError: it is not text of at most 64 characters.
    """
    found = draft.metadata.get("client_uuid")
    if found is None:
        return None
    if not isinstance(found, str) or not 0 < len(found) <= 64 or not found.isprintable():
        raise RefusedError(
            f"The registry refuses this {label(type(draft))}:",
            problems=["metadata.client_uuid must be printable text of 1 to 64 characters"],
        )
    return found


def resent(draft: T, earlier: T) -> T:
    """``earlier``, which its owner registered with the same client UUID, in answer to ``draft`` that comes again.

    Raises:
        RefusedError: the two are about different things, so the UUID was used twice.
    """
    about = [name for name in ("name", "benchmark", "model", "dataset") if hasattr(draft, name)]
    if any(getattr(draft, name) != getattr(earlier, name) for name in about):
        raise RefusedError(
            f"The registry refuses this {label(type(draft))}:",
            problems=[f"its metadata.client_uuid is that of {name_of(earlier)} already"],
        )
    return earlier


def _rule(rules: dict[Kind, Any], kind: Kind) -> Any:
    if kind not in rules:
        raise UsageError(
            f"A registry cannot do this with {kind.__name__}; it can with: "
            f"{', '.join(sorted(each.__name__ for each in rules))}."
        )
    return rules[kind]
