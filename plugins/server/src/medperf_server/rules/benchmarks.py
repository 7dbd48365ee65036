"""Benchmarks: operational only on operational containers, one pending per owner, approved by administrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from medperf_core.entities import Approval, Benchmark, Container, Model, State, User
from medperf_server.rules.common import (
    Entities,
    Reasons,
    answered,
    edited,
    name_of,
    permit,
    permit_owner,
    stamped,
    unique,
)

_PARTS: tuple[tuple[str, type[Container] | type[Model]], ...] = (
    ("data_preparation_mlcube", Container),
    ("data_evaluator_mlcube", Container),
    ("reference_model", Model),
)


def create(actor: User, draft: Benchmark, entities: Entities, now: str) -> Benchmark:
    """A new benchmark, PENDING whatever the draft says; every user may submit one."""
    reasons = Reasons(name_of(draft))
    _check(reasons, draft, entities)
    pending = entities.find(Benchmark, owner=actor.id, approval_status=Approval.PENDING)
    reasons.unless(
        not pending,
        f"{actor.username} has a pending benchmark already "
        f"({', '.join(map(name_of, pending))}); one at a time can await approval",
    )
    reasons.refuse_if_any()
    return stamped(draft, actor, now, approval_status=Approval.PENDING, approved_at=None)


def update(actor: User, current: Benchmark, changes: Mapping[str, Any], entities: Entities, now: str) -> Benchmark:
    """The benchmark after ``changes``; a change that names ``approval_status`` is for administrators."""
    if "approval_status" in changes:
        permit(actor.is_admin, actor, f"approve or reject {name_of(current)}", "administrators")
    permit_owner(actor, current)
    reasons = Reasons(f"this change of {name_of(current)}")
    changed = edited(current, changes, now, reasons)
    answered(current.approval_status, changed.approval_status, reasons)
    _check(reasons, changed, entities)
    reasons.refuse_if_any()
    if changed.approval_status is not current.approval_status:
        approved = changed.approval_status is Approval.APPROVED
        changed = attrs.evolve(changed, approved_at=now if approved else None)
    return changed


def _check(reasons: Reasons, benchmark: Benchmark, entities: Entities) -> None:
    unique(reasons, benchmark, entities)
    reasons.unless(bool(benchmark.demo_dataset_tarball_hash), "demo_dataset_tarball_hash is required")
    for field, kind in _PARTS:
        part = entities.get(kind, getattr(benchmark, field))
        if part is None:
            reasons.found.append(f"{field}: there is no {kind.__name__.lower()} {getattr(benchmark, field)}")
        elif benchmark.state is State.OPERATION:
            reasons.unless(
                part.state is State.OPERATION,
                f"it cannot be in OPERATION while {name_of(part)} ({field}) is in {part.state}",
            )
