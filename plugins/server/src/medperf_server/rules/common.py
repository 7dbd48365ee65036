"""What the rules share: the view of the entities, reasons, ownership, stamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs

from medperf_core.entities import Approval, Association, Entity, State, User
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import InvalidEntityError, NotFoundError, PermissionDeniedError, ServerError
from medperf_core.plugin import Party
from medperf_server.rules.fields import in_operation, normalised, on_update

T = TypeVar("T")
E = TypeVar("E", bound=Entity)
Kind = type[Any]


class RefusedError(ServerError, InvalidEntityError):
    """The registry refuses a change; ``problems`` lists every reason."""


class Entities(Protocol):
    """The entities that a decision may look at, all of one moment."""

    def get(self, kind: type[T], uid: int) -> T | None:
        """The entity of this kind with this UID, None if there is none."""

    def find(self, kind: type[T], **fields: Any) -> Sequence[T]:
        """The entities of a kind whose fields equal the given ones, in order of UIDs."""

    def latest(self, party: Party, uid: int, benchmark: int) -> Association | None:
        """The latest association of a model or dataset with a benchmark."""


class Reasons:
    """Collects every reason against ``what``, such as "container 'unet'"."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.found: list[str] = []

    def unless(self, fine: bool, reason: str) -> None:
        """Note ``reason`` if ``fine`` is false."""
        if not fine:
            self.found.append(reason)

    def refuse_if_any(self) -> None:
        """Raises RefusedError once a reason was noted."""
        if self.found:
            raise RefusedError(f"The registry refuses {self.what}:", problems=self.found)


def label(kind: Kind) -> str:
    """What messages call an entity of this kind."""
    return kind.__name__.lower()


def name_of(thing: Any) -> str:
    """An entity in words: "container 'unet'", "model 4 ('unet')"."""
    name = getattr(thing, "name", getattr(thing, "username", ""))
    return f"{label(type(thing))} {name!r}" if thing.id is None else f"{label(type(thing))} {thing.id} ({name!r})"


def existing(entities: Entities, kind: type[T], uid: int) -> T:
    """The entity with this UID.

    Raises:
        NotFoundError: there is none.
    """
    found = entities.get(kind, uid)
    if found is None:
        raise NotFoundError(f"The registry has no {label(kind)} {uid}.", hint="List them to see those there are.")
    return found


def existing_all(entities: Entities, *wanted: tuple[Kind, int]) -> list[Any]:
    """The entities with these UIDs.

    Raises:
        NotFoundError: some are missing; all of these are named.
    """
    found = [entities.get(kind, uid) for kind, uid in wanted]
    missing = [f"{label(kind)} {uid}" for (kind, uid), each in zip(wanted, found, strict=True) if each is None]
    if missing:
        raise NotFoundError(
            f"The registry has no {' and no '.join(missing)}.", hint="List them to see those there are."
        )
    return found


def permit(allowed: bool, actor: User, what: str, who: str) -> None:
    """Raises PermissionDeniedError unless ``allowed``; ``who`` says who may."""
    if not allowed:
        raise PermissionDeniedError(f"{actor.username} may not {what}; {who} may.")


def permit_owner(actor: User, thing: Entity) -> None:
    """The owner and administrators may change an entity."""
    permit(actor.is_admin or actor.id == thing.owner, actor, f"change {name_of(thing)}", "its owner and administrators")


def stamped(draft: E, actor: User, now: str, **more: Any) -> E:
    """``draft`` as a new entity of ``actor``, whatever it said of its server-made fields."""
    return attrs.evolve(draft, id=None, owner=actor.id, created_at=now, modified_at=now, **more)


def edited(current: T, changes: Mapping[str, Any], now: str, reasons: Reasons, **more: Any) -> T:
    """``current`` after ``changes`` and ``more``; notes each field that its state does not let change.

    Raises:
        RefusedError: a value is not valid for its field.
    """
    if hasattr(current, "modified_at"):
        more["modified_at"] = now
    try:
        asked = normalised(type(current), changes, on_update(type(current)))
        changed = from_data({**to_data(current), **asked, **more}, type(current))
    except InvalidEntityError as error:
        raise RefusedError(
            f"The registry refuses {reasons.what}:", problems=error.problems or (error.message,)
        ) from error
    if getattr(current, "state", None) is State.OPERATION:
        editable = in_operation(type(current))
        frozen = [name for name in asked if name not in editable and differs(current, changed, name)]
        reasons.unless(
            not frozen,
            f"in OPERATION its {', '.join(frozen)} cannot change any more; only {', '.join(sorted(editable))} can",
        )
    return changed


def differs(one: Any, other: Any, name: str) -> bool:
    """Whether a field differs, comparing as JSON does: true is not 1, 1 is not 1.0."""
    return to_json(getattr(one, name)) != to_json(getattr(other, name))


def unique(reasons: Reasons, thing: Any, entities: Entities, name: str = "name") -> None:
    """A field that no two entities of a kind share."""
    value = getattr(thing, name)
    twins = [each for each in entities.find(type(thing), **{name: value}) if each.id != thing.id]
    reasons.unless(not twins, f"there is a {label(type(thing))} with the {name} {value!r} already")


def answered(current: Approval, wanted: Approval, reasons: Reasons) -> None:
    """PENDING may be approved or rejected, APPROVED rejected; the same answer again changes nothing."""
    if wanted is current:
        return
    reasons.unless(wanted is not Approval.PENDING, "it can be approved or rejected, not made PENDING again")
    reasons.unless(
        not (current is Approval.REJECTED and wanted is Approval.APPROVED),
        "it was rejected; only what is PENDING can be approved",
    )
