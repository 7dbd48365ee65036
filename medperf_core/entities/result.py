"""What one model did on one dataset of a benchmark, as the data owner chose to share it."""

from __future__ import annotations

from typing import Any

import attrs

from medperf_core.entities import checks
from medperf_core.entities.registry import Approval, Entity


@attrs.frozen(kw_only=True)
class Result(Entity):
    """An execution and, once finalized, its results.

    Attributes:
        results: what the evaluator wrote.
        finalized: true once the data owner has sent the results; nothing changes after that.
    """

    name: str = attrs.field(default="", validator=checks.text(128))
    benchmark: int = attrs.field(validator=checks.required_uid)
    model: int = attrs.field(validator=checks.required_uid)
    dataset: int = attrs.field(validator=checks.required_uid)
    results: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    model_report: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    evaluation_report: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    approval_status: Approval = attrs.field(default=Approval.PENDING, converter=Approval)
    approved_at: str | None = None
    finalized: bool = False
    finalized_at: str | None = None
    user_metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
