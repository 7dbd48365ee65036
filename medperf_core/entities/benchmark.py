"""A benchmark: a data preparator, a reference model, an evaluator and a demo dataset."""

from __future__ import annotations

from typing import Any

import attrs

from medperf_core.entities import checks
from medperf_core.entities.registry import Approval, AutoApproval, Entity, State


@attrs.frozen(kw_only=True)
class Benchmark(Entity):
    """A benchmark.

    Attributes:
        data_preparation_mlcube, data_evaluator_mlcube: container UIDs.
        reference_model: a model UID (not a container's).
        demo_dataset_tarball_url, demo_dataset_tarball_hash: where the demo dataset is, and its SHA-256.
        demo_dataset_generated_uid: public hash of the prepared demo dataset.
        approval_status: given by an admin of the server.
        dataset_auto_approval_allow_list, model_auto_approval_allow_list: e-mail addresses; shown to the owner only.
    """

    name: str = attrs.field(validator=checks.text(128, blank=False))
    description: str = attrs.field(default="", validator=checks.text(256, lines=True))
    docs_url: str = attrs.field(default="", validator=checks.text(100))
    demo_dataset_tarball_url: str = attrs.field(validator=checks.text(256, blank=False))
    demo_dataset_tarball_hash: str = attrs.field(validator=checks.sha256)
    demo_dataset_generated_uid: str = attrs.field(validator=checks.text(128, blank=False))
    data_preparation_mlcube: int = attrs.field(validator=checks.required_uid)
    reference_model: int = attrs.field(validator=checks.required_uid)
    data_evaluator_mlcube: int = attrs.field(validator=checks.required_uid)
    state: State = attrs.field(default=State.DEVELOPMENT, converter=State)
    is_active: bool = True
    approval_status: Approval = attrs.field(default=Approval.PENDING, converter=Approval)
    approved_at: str | None = None
    dataset_auto_approval_mode: AutoApproval = attrs.field(default=AutoApproval.NEVER, converter=AutoApproval)
    model_auto_approval_mode: AutoApproval = attrs.field(default=AutoApproval.NEVER, converter=AutoApproval)
    dataset_auto_approval_allow_list: list[str] = attrs.field(factory=list, validator=checks.json_value)
    model_auto_approval_allow_list: list[str] = attrs.field(factory=list, validator=checks.json_value)
    user_metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
