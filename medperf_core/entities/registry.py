"""What every entity of the registry shares, and the words for their states (the 2026 schema)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import attrs

from medperf_core.entities import checks


class State(StrEnum):
    """DEVELOPMENT may still be edited; OPERATION is final."""

    DEVELOPMENT = "DEVELOPMENT"
    OPERATION = "OPERATION"


class Approval(StrEnum):
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


class AutoApproval(StrEnum):
    """Whether a benchmark approves requests of others by itself."""

    NEVER = "NEVER"
    ALWAYS = "ALWAYS"
    ALLOWLIST = "ALLOWLIST"


@attrs.frozen(kw_only=True)
class Entity:
    """Base of what a server keeps.

    Attributes:
        id: the server UID; None before the server has given one.
        owner: UID of the user who submitted it; given by the server.
        created_at, modified_at: UTC, ISO 8601 with ``Z``; given by the server.
        is_valid: false once its owner has withdrawn it.
        metadata: JSON that the submitter adds: ``client_uuid``, ``sources``, ``images``, ...
    """

    id: int | None = attrs.field(default=None, validator=checks.uid)
    owner: int | None = attrs.field(default=None, validator=checks.uid)
    created_at: str | None = None
    modified_at: str | None = None
    is_valid: bool = True
    metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)

    @property
    def uid(self) -> int:
        """The server UID of a registered entity."""
        if self.id is None:
            raise ValueError(f"this {type(self).__name__.lower()} is not registered")
        return self.id
