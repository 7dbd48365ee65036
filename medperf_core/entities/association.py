"""A model's or a dataset's request to take part in a benchmark, and its answer. History is append-only."""

from __future__ import annotations

from typing import Any

import attrs

from medperf_core.entities import checks
from medperf_core.entities.registry import Approval
from medperf_core.errors import InvalidEntityError


@attrs.frozen(kw_only=True)
class Association:
    """One row of the history between a benchmark and a model or a dataset; the latest counts.

    Attributes:
        benchmark: benchmark UID.
        model, dataset: UID of the one that takes part; exactly one of them is given.
        approval_status: PENDING until the side that did not ask answers.
        initiated_by: UID of the user who asked.
        priority: higher runs first; models only.
        metadata: JSON of the asking side, such as ``test_result``.
    """

    id: int | None = attrs.field(default=None, validator=checks.uid)
    benchmark: int = attrs.field(validator=checks.required_uid)
    model: int | None = attrs.field(default=None, validator=checks.uid)
    dataset: int | None = attrs.field(default=None, validator=checks.uid)
    approval_status: Approval = attrs.field(default=Approval.PENDING, converter=Approval)
    initiated_by: int | None = attrs.field(default=None, validator=checks.uid)
    priority: int = 0
    created_at: str | None = None
    modified_at: str | None = None
    approved_at: str | None = None
    metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)

    def __attrs_post_init__(self) -> None:
        if (self.model is None) == (self.dataset is None):
            raise InvalidEntityError("An association is between a benchmark and either a model or a dataset.")
