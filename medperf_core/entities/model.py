"""A model: what takes part in a benchmark. It wraps a container, or an asset that a script container runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import attrs

from medperf_core.entities import checks
from medperf_core.entities.container import Container
from medperf_core.entities.registry import Entity, State
from medperf_core.errors import InvalidEntityError


class ModelType(StrEnum):
    CONTAINER = "CONTAINER"
    ASSET = "ASSET"


@attrs.frozen(kw_only=True)
class Asset(Entity):
    """Model files without a container of their own.

    Attributes:
        asset_hash: SHA-256 of the archive.
        asset_url: where it is, or ``local`` where it stays on its owner's disk.
    """

    name: str = attrs.field(validator=checks.text(128, blank=False))
    asset_hash: str = attrs.field(validator=checks.sha256)
    asset_url: str = attrs.field(validator=checks.text(256, blank=False))
    state: State = attrs.field(default=State.DEVELOPMENT, converter=State)
    user_metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)


@attrs.frozen(kw_only=True)
class Model(Entity):
    """A model. Its state and validity equal those of what it wraps."""

    name: str = attrs.field(validator=checks.text(128, blank=False))
    type: ModelType = attrs.field(default=ModelType.CONTAINER, converter=ModelType)
    container: Container | None = None
    asset: Asset | None = None
    state: State = attrs.field(default=State.DEVELOPMENT, converter=State)
    user_metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)

    def __attrs_post_init__(self) -> None:
        wrapped = self.container if self.type is ModelType.CONTAINER else self.asset
        other = self.asset if self.type is ModelType.CONTAINER else self.container
        if wrapped is None or other is not None:
            raise InvalidEntityError(f"Model {self.name!r} of type {self.type} must wrap exactly one {self.type}.")
        if (wrapped.state, wrapped.is_valid) != (self.state, self.is_valid):
            raise InvalidEntityError(f"Model {self.name!r}: state and validity must equal those of what it wraps.")

    @classmethod
    def wrapping(cls, container: Container) -> Model:
        """The model, not yet registered, that wraps a container that is not yet registered."""
        return cls(
            name=container.name,
            type=ModelType.CONTAINER,
            container=container,
            state=container.state,
            is_valid=container.is_valid,
            metadata=dict(container.metadata),
        )
