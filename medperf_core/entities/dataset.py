"""A dataset: what a server knows of data that never leaves its site."""

from __future__ import annotations

from typing import Any

import attrs

from medperf_core.entities import checks
from medperf_core.entities.registry import Entity, State


@attrs.frozen(kw_only=True)
class Dataset(Entity):
    """A dataset's registration.

    Attributes:
        input_data_hash, generated_uid: the public client's folder hash of raw and of prepared data and labels
            (SHA-256 hex); it ignores file names, see ``medperf_core.plugin.digest``.
        data_preparation_mlcube: UID of the container that prepares it.
        generated_metadata: the statistics that its owner agreed to share.
    """

    name: str = attrs.field(validator=checks.text(128, blank=False))
    description: str = attrs.field(default="", validator=checks.text(256, lines=True))
    location: str = attrs.field(default="", validator=checks.text(128))
    input_data_hash: str = attrs.field(validator=checks.text(128, blank=False))
    generated_uid: str = attrs.field(validator=checks.text(128, blank=False))
    split_seed: int = 0
    data_preparation_mlcube: int = attrs.field(validator=checks.required_uid)
    submitted_as_prepared: bool = False
    generated_metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    report: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    state: State = attrs.field(default=State.DEVELOPMENT, converter=State)
    user_metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
