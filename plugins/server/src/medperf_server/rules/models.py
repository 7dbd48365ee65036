"""Models: created together with the container or asset that they wrap, and never wrapped around another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medperf_core.entities import Asset, Container, Model, User
from medperf_core.entities.codec import to_data
from medperf_server.rules import containers
from medperf_server.rules.common import Entities, Reasons, edited, name_of, permit_owner, stamped, unique


def wrapped(model: Model) -> Container | Asset:
    """What a model wraps."""
    inner = model.container or model.asset
    assert inner is not None  # noqa: S101 - the entity's own rule
    return inner


def create(actor: User, draft: Model, entities: Entities, now: str) -> Model:
    """A new model with its new container or asset; every user may submit one."""
    reasons = Reasons(name_of(draft))
    unique(reasons, draft, entities)
    inner = wrapped(draft)
    field = "container" if isinstance(inner, Container) else "asset"
    reasons.found += [f"{field}: {problem}" for problem in containers.problems(inner, entities)]
    reasons.refuse_if_any()
    return stamped(draft, actor, now, **{field: stamped(inner, actor, now)})


def update(actor: User, current: Model, changes: Mapping[str, Any], entities: Entities, now: str) -> Model:
    """The model after ``changes``; its state and validity are those of what it wraps, too."""
    permit_owner(actor, current)
    reasons = Reasons(f"this change of {name_of(current)}")
    reasons.unless(changes.get("type", current.type) == current.type, "its type cannot change")
    for field in ("container", "asset"):
        held = getattr(current, field)
        same = changes.get(field, held) in (held, held and held.id)
        reasons.unless(same, f"the {field} that it wraps cannot be replaced; register another model")
    inner = wrapped(current)
    field = "container" if isinstance(inner, Container) else "asset"
    shared = {name: changes[name] for name in ("state", "is_valid") if name in changes}
    nested = {**to_data(inner), **shared, "modified_at": now if shared else inner.modified_at}
    changed = edited(current, changes, now, reasons, **{field: nested})
    unique(reasons, changed, entities)
    reasons.refuse_if_any()
    return changed
