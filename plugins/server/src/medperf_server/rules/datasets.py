"""Datasets: registered in DEVELOPMENT, final in OPERATION; prepared data is operational once only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medperf_core.entities import Container, Dataset, State, User
from medperf_server.rules.common import Entities, Reasons, edited, name_of, permit_owner, stamped


def create(actor: User, draft: Dataset, entities: Entities, now: str) -> Dataset:
    """A new dataset, in DEVELOPMENT whatever the draft says; every user may submit one."""
    reasons = Reasons(name_of(draft))
    _check(reasons, draft, entities)
    reasons.refuse_if_any()
    return stamped(draft, actor, now, state=State.DEVELOPMENT)


def update(actor: User, current: Dataset, changes: Mapping[str, Any], entities: Entities, now: str) -> Dataset:
    """The dataset after ``changes``."""
    permit_owner(actor, current)
    reasons = Reasons(f"this change of {name_of(current)}")
    changed = edited(current, changes, now, reasons)
    _check(reasons, changed, entities)
    if changed.state is State.OPERATION:
        same = entities.find(Dataset, generated_uid=changed.generated_uid, state=State.OPERATION)
        twins = [name_of(each) for each in same if each.id != changed.id]
        reasons.unless(not twins, f"{', '.join(twins)} is operational with the same prepared data (generated_uid)")
    reasons.refuse_if_any()
    return changed


def _check(reasons: Reasons, dataset: Dataset, entities: Entities) -> None:
    preparator = dataset.data_preparation_mlcube
    reasons.unless(
        entities.get(Container, preparator) is not None, f"data_preparation_mlcube: there is no container {preparator}"
    )
