"""Containers and assets: names and contents are unique; in OPERATION they are final."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from medperf_core.entities import Asset, Container, Model, User
from medperf_server.rules.common import (
    Entities,
    Reasons,
    differs,
    edited,
    name_of,
    permit_owner,
    stamped,
    unique,
)

C = TypeVar("C", Container, Asset)
_CONTENT = ("image_hash", "additional_files_tarball_hash", "container_config", "parameters_config")


def create(actor: User, draft: C, entities: Entities, now: str) -> C:
    """A new container or asset; every user may submit one."""
    reasons = Reasons(name_of(draft))
    reasons.found += problems(draft, entities)
    reasons.refuse_if_any()
    return stamped(draft, actor, now)


def update(actor: User, current: C, changes: Mapping[str, Any], entities: Entities, now: str) -> C:
    """The container or asset after ``changes``. One that a model wraps takes its state and validity from there."""
    permit_owner(actor, current)
    reasons = Reasons(f"this change of {name_of(current)}")
    changed = edited(current, changes, now, reasons)
    field = "container" if isinstance(current, Container) else "asset"
    for model in entities.find(Model, **{field: current.id}):
        moved = [name for name in ("state", "is_valid") if differs(current, changed, name)]
        reasons.unless(not moved, f"{name_of(model)} wraps it; change {' and '.join(moved)} there")
    reasons.found += problems(changed, entities)
    reasons.refuse_if_any()
    return changed


def problems(thing: Container | Asset, entities: Entities) -> list[str]:
    """What keeps it from being registered beside the others."""
    reasons = Reasons(name_of(thing))
    unique(reasons, thing, entities)
    if isinstance(thing, Asset):
        reasons.unless(bool(thing.asset_hash), "an asset needs the hash of its file")
        return reasons.found
    reasons.unless(bool(thing.image_hash.strip()), "a container needs the hash of its image")
    for other in entities.find(
        Container, image_hash=thing.image_hash, additional_files_tarball_hash=thing.additional_files_tarball_hash
    ):
        same = other.id != thing.id and not any(differs(thing, other, name) for name in _CONTENT)
        reasons.unless(not same, f"{name_of(other)} has the same image, additional files, manifest and parameters")
    return reasons.found
