"""Associations: one side asks, the other answers; the history is append-only and its latest row counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from medperf_core.entities import Approval, Association, AutoApproval, Benchmark, Dataset, Model, State, User
from medperf_core.errors import InvalidEntityError, NotFoundError
from medperf_core.plugin import Party
from medperf_server.rules.common import Entities, Reasons, RefusedError, existing_all, name_of, permit
from medperf_server.rules.fields import normalised, on_update

KIND: dict[Party, type[Model] | type[Dataset]] = {Party.MODEL: Model, Party.DATASET: Dataset}


def party_of(association: Association) -> tuple[Party, int]:
    """What takes part, and its UID."""
    if association.model is not None:
        return Party.MODEL, association.model
    assert association.dataset is not None  # noqa: S101 - the entity's own rule
    return Party.DATASET, association.dataset


def create(actor: User, draft: Association, entities: Entities, now: str) -> Association:
    """A request (PENDING), or the withdrawal of an approved association (REJECTED); either side may make both.

    A request is approved at once where both sides have one owner, or the benchmark's auto-approval says so.
    A withdrawal asks for nothing but an approved association: nobody is held in a benchmark that lost its approval.
    """
    party, uid = party_of(draft)
    benchmark, component = existing_all(entities, (Benchmark, draft.benchmark), (KIND[party], uid))
    what = f"the association of {name_of(component)} with {name_of(benchmark)}"
    _permit_sides(actor, benchmark, component, f"ask for or withdraw {what}")
    reasons = Reasons(what)
    last = entities.latest(party, uid, draft.benchmark)
    status = last.approval_status if last else None
    wanted = draft.approval_status
    if wanted is Approval.PENDING:
        _check_request(reasons, benchmark, component)
        reasons.unless(
            status in (None, Approval.REJECTED),
            f"the last request is {status}; a new one can follow a rejected one only",
        )
        if _approved_at_once(actor, benchmark, component, entities):
            wanted = Approval.APPROVED
    elif wanted is Approval.REJECTED:
        reasons.unless(
            status is Approval.APPROVED,
            "only an approved association can be withdrawn; "
            + (f"the last request is {status}" if status else "there was no request"),
        )
    else:
        reasons.found.append("a request cannot be made approved; the other side answers it")
    reasons.refuse_if_any()
    return attrs.evolve(
        draft,
        id=None,
        approval_status=wanted,
        initiated_by=actor.id,
        priority=0,
        created_at=now,
        modified_at=now,
        approved_at=now if wanted is Approval.APPROVED else None,
    )


def update(
    actor: User, party: Party, uid: int, benchmark_uid: int, changes: Mapping[str, Any], entities: Entities, now: str
) -> Association:
    """The latest association of a pair after an answer (``approval_status``) or a new ``priority``.

    Only a pending request can be answered, and not approved by the user who made it, administrator or not.
    Models have a priority, which the benchmark's owner may change at any time.

    Raises:
        NotFoundError: no such benchmark, model or dataset, or the two have never been associated.
    """
    benchmark, component = existing_all(entities, (Benchmark, benchmark_uid), (KIND[party], uid))
    what = f"the association of {name_of(component)} with {name_of(benchmark)}"
    _permit_sides(actor, benchmark, component, f"answer {what}")
    if "priority" in changes:
        permit(
            actor.is_admin or actor.id == benchmark.owner,
            actor,
            f"set the priority of {what}",
            "the benchmark's owner and administrators",
        )
    current = entities.latest(party, uid, benchmark_uid)
    if current is None:
        raise NotFoundError(
            f"The registry has no association of {name_of(component)} with {name_of(benchmark)}.",
            hint="One of the two sides has to ask for it first.",
        )
    reasons = Reasons(f"this answer to {what}")
    asked = _valid(changes, reasons)
    if "priority" in asked:
        reasons.unless(party is Party.MODEL, "only models have a priority")
    wanted, status = asked.get("approval_status", current.approval_status), current.approval_status
    if "approval_status" in asked:
        reasons.unless(status is Approval.PENDING, f"only a pending request can be answered; this one is {status}")
        reasons.unless(
            wanted is not Approval.APPROVED or actor.id != current.initiated_by,
            "who asked cannot approve; the other side has to",
        )
    reasons.refuse_if_any()
    if wanted is Approval.APPROVED and status is not Approval.APPROVED:
        asked["approved_at"] = now
    return attrs.evolve(current, **asked, modified_at=now) if asked else current


def _permit_sides(actor: User, benchmark: Benchmark, component: Model | Dataset, what: str) -> None:
    permit(
        actor.is_admin or actor.id in (benchmark.owner, component.owner),
        actor,
        what,
        "the owners of the two sides and administrators",
    )


def _check_request(reasons: Reasons, benchmark: Benchmark, component: Model | Dataset) -> None:
    reasons.unless(
        benchmark.approval_status is Approval.APPROVED,
        f"{name_of(benchmark)} is not approved; it is {benchmark.approval_status}",
    )
    for side in (benchmark, component):
        reasons.unless(side.state is State.OPERATION, f"{name_of(side)} is in {side.state}, not in OPERATION")
    if isinstance(component, Dataset):
        own, needed = component.data_preparation_mlcube, benchmark.data_preparation_mlcube
        reasons.unless(
            own == needed,
            f"{name_of(component)} is prepared by container {own}; "
            f"the benchmark needs data prepared by container {needed}",
        )


def _approved_at_once(actor: User, benchmark: Benchmark, component: Model | Dataset, entities: Entities) -> bool:
    if component.owner == benchmark.owner:
        return True
    if actor.id == benchmark.owner:
        return False
    party = "dataset" if isinstance(component, Dataset) else "model"
    mode = getattr(benchmark, f"{party}_auto_approval_mode")
    if mode is AutoApproval.ALLOWLIST and component.owner is not None:
        owner = entities.get(User, component.owner)
        listed = {email.strip().casefold() for email in getattr(benchmark, f"{party}_auto_approval_allow_list")}
        return owner is not None and owner.email != "" and owner.email.casefold() in listed
    return bool(mode is AutoApproval.ALWAYS)


def _valid(changes: Mapping[str, Any], reasons: Reasons) -> dict[str, Any]:
    try:
        asked = normalised(Association, changes, on_update(Association))
    except InvalidEntityError as error:
        raise RefusedError(f"The registry refuses {reasons.what}:", problems=[error.message]) from error
    if "approval_status" in asked:
        try:
            asked["approval_status"] = Approval(asked["approval_status"])
        except ValueError:
            reasons.found.append(
                f"approval_status is {asked.pop('approval_status')!r}; it must be one of {', '.join(Approval)}"
            )
    if not isinstance(asked.get("priority", 0), int) or isinstance(asked.get("priority"), bool):
        reasons.found.append(f"priority is {asked.pop('priority')!r}; it must be a whole number")
    return asked
