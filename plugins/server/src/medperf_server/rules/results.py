"""Results: of approved pairs on one's own data, finalized once, never approved by the data owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from medperf_core.entities import Approval, Benchmark, Dataset, Model, Result, User
from medperf_core.plugin import Party
from medperf_server.rules.common import (
    Entities,
    Reasons,
    answered,
    edited,
    existing,
    existing_all,
    label,
    name_of,
    permit,
    stamped,
)

_OF = ("benchmark", "model", "dataset")


def create(actor: User, draft: Result, entities: Entities, now: str) -> Result:
    """A new execution. Results that come with it are kept but do not finalize it.

    The benchmark's reference model needs no association: its run belongs to the compatibility test that
    precedes one.
    """
    benchmark, _, dataset = existing_all(
        entities, (Benchmark, draft.benchmark), (Model, draft.model), (Dataset, draft.dataset)
    )
    permit(
        actor.is_admin or actor.id == dataset.owner,
        actor,
        f"register results of {name_of(dataset)}",
        "its owner and administrators",
    )
    reasons = Reasons(f"a result of model {draft.model} on {name_of(dataset)}")
    if draft.model != benchmark.reference_model:
        for party, uid in ((Party.MODEL, draft.model), (Party.DATASET, draft.dataset)):
            last = entities.latest(party, uid, draft.benchmark)
            status = last.approval_status if last else None
            how = f"its association is {status}" if status else "it has none"
            reasons.unless(
                status is Approval.APPROVED,
                f"{party} {uid} needs an approved association with {name_of(benchmark)}; {how}",
            )
    reasons.refuse_if_any()
    return stamped(
        draft, actor, now, approval_status=Approval.PENDING, approved_at=None, finalized=False, finalized_at=None
    )


def update(actor: User, current: Result, changes: Mapping[str, Any], entities: Entities, now: str) -> Result:
    """The result after ``changes``; one that names ``results`` finalizes it."""
    dataset = existing(entities, Dataset, current.dataset)
    permit(
        actor.is_admin or actor.id == dataset.owner,
        actor,
        f"change {name_of(current)}",
        "the dataset's owner and administrators",
    )
    if "approval_status" in changes:
        permit(
            actor.is_admin and actor.id != dataset.owner,
            actor,
            f"approve or reject {name_of(current)}",
            f"administrators who do not own {label(Dataset)} {dataset.id}",
        )
    reasons = Reasons(f"this change of {name_of(current)}")
    reasons.unless(not current.finalized, "it was finalized and is final")
    moved = [name for name in _OF if changes.get(name, getattr(current, name)) != getattr(current, name)]
    reasons.unless(not moved, f"its {', '.join(moved)} cannot change")
    changed = edited(current, changes, now, reasons)
    answered(current.approval_status, changed.approval_status, reasons)
    reasons.refuse_if_any()
    if changed.approval_status is not current.approval_status:
        approved = changed.approval_status is Approval.APPROVED
        changed = attrs.evolve(changed, approved_at=now if approved else None)
    return attrs.evolve(changed, finalized=True, finalized_at=now) if "results" in changes else changed
