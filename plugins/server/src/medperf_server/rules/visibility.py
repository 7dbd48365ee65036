"""Who sees what. Everything is open to every user but users, results and a few fields."""

from __future__ import annotations

from typing import TypeVar

import attrs

from medperf_core.entities import Approval, Association, Benchmark, Container, Dataset, Model, Result, User
from medperf_core.plugin import Party
from medperf_server.rules.associations import KIND
from medperf_server.rules.common import Entities

T = TypeVar("T")


def may_see(actor: User, thing: User | Result, entities: Entities) -> bool:
    """Whether the actor sees a user (metadata included) or a result at all.

    A user: administrators, that user, and owners of a container that prepares one of that user's datasets.
    A result: administrators and the owners of its dataset and benchmark; not the model's owner.
    """
    if actor.is_admin:
        return True
    if isinstance(thing, User):
        if actor.id == thing.id:
            return True
        prepared_by = {each.data_preparation_mlcube for each in entities.find(Dataset, owner=thing.id)}
        return any(_owns(actor, Container, uid, entities) for uid in prepared_by)
    return _owns(actor, Dataset, thing.dataset, entities) or _owns(actor, Benchmark, thing.benchmark, entities)


def may_see_participants(actor: User, benchmark: Benchmark, party: Party, entities: Entities) -> bool:
    """Whether the actor sees which models (datasets) are associated with a benchmark.

    Its owner, administrators, and owners of a dataset (model) of which the association is approved now.
    """
    if actor.is_admin or actor.id == benchmark.owner:
        return True
    other = Party.DATASET if party is Party.MODEL else Party.MODEL
    return any(
        _approved(entities.latest(other, own.uid, benchmark.uid)) for own in entities.find(KIND[other], owner=actor.id)
    )


def shown(actor: User, thing: T, entities: Entities) -> T:
    """``thing`` without what the actor may not read.

    A benchmark's allow lists are its owner's; a dataset's preparation report is for its owner and the owner of the
    container that prepares it, not for administrators.
    """
    if isinstance(thing, Benchmark) and actor.id != thing.owner:
        return attrs.evolve(thing, dataset_auto_approval_allow_list=[], model_auto_approval_allow_list=[])
    if (
        isinstance(thing, Dataset)
        and thing.report
        and actor.id != thing.owner
        and not _owns(actor, Container, thing.data_preparation_mlcube, entities)
    ):
        return attrs.evolve(thing, report={})
    return thing


def _owns(
    actor: User, kind: type[Container] | type[Model] | type[Dataset] | type[Benchmark], uid: int, entities: Entities
) -> bool:
    found = entities.get(kind, uid)
    return found is not None and found.owner == actor.id


def _approved(association: Association | None) -> bool:
    return association is not None and association.approval_status is Approval.APPROVED
