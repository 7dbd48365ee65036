"""Users: made by administrators; their names and addresses tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from medperf_core.entities import User
from medperf_server.rules.common import Entities, Reasons, edited, name_of, permit


def create(actor: User, draft: User, entities: Entities, now: str) -> User:
    """A new user."""
    permit(actor.is_admin, actor, "add users", "administrators")
    reasons = Reasons(name_of(draft))
    taken = {name.casefold() for user in entities.find(User) for name in (user.username, user.email) if name}
    for name in filter(None, (draft.username, draft.email)):
        reasons.unless(name.casefold() not in taken, f"{name!r} is another user's name or e-mail address already")
    reasons.refuse_if_any()
    return attrs.evolve(draft, id=None)


def update(actor: User, current: User, changes: Mapping[str, Any], entities: Entities, now: str) -> User:
    """Users and administrators may change ``metadata``; names and rights stay."""
    permit(
        actor.is_admin or actor.id == current.id, actor, f"change {name_of(current)}", "that user and administrators"
    )
    return edited(current, changes, now, Reasons(name_of(current)))
