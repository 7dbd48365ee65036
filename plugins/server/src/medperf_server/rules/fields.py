"""Which fields of each kind a user may give, and when. All others are the registry's and passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from medperf_core.entities import Asset, Association, Benchmark, Container, Dataset, Model, Result, User
from medperf_core.errors import InvalidEntityError

Kind = type[Any]
SERVER_MADE = frozenset(
    {
        "id",
        "owner",
        "created_at",
        "modified_at",
        "approved_at",
        "initiated_by",
        "finalized",
        "finalized_at",
    }
)
_NOT_ON_CREATE: dict[Kind, frozenset[str]] = {
    Dataset: frozenset({"state"}),
    Benchmark: frozenset({"approval_status"}),
    Result: frozenset({"approval_status"}),
    Association: frozenset({"priority"}),
}
_ON_UPDATE: dict[Kind, frozenset[str]] = {
    User: frozenset({"metadata"}),
    Association: frozenset({"approval_status", "priority"}),
    Model: frozenset({"name", "state", "is_valid", "metadata", "user_metadata"}),
}
_ALWAYS = frozenset({"is_valid", "user_metadata"})
_IN_OPERATION: dict[Kind, frozenset[str]] = {
    Container: _ALWAYS | {"additional_files_tarball_url"},
    Asset: _ALWAYS | {"asset_url"},
    Model: _ALWAYS,
    Dataset: _ALWAYS,
    Benchmark: _ALWAYS
    | {
        "is_active",
        "approval_status",
        "demo_dataset_tarball_url",
        "dataset_auto_approval_mode",
        "dataset_auto_approval_allow_list",
        "model_auto_approval_mode",
        "model_auto_approval_allow_list",
    },
}


def on_create(kind: Kind) -> frozenset[str]:
    """The fields that a new entity's submitter gives."""
    return frozenset(attrs.fields_dict(kind)) - SERVER_MADE - _NOT_ON_CREATE.get(kind, frozenset())


def on_update(kind: Kind) -> frozenset[str]:
    """The fields that may be changed at all."""
    return _ON_UPDATE.get(kind, frozenset(attrs.fields_dict(kind)) - SERVER_MADE)


def in_operation(kind: Kind) -> frozenset[str]:
    """The fields that may still be changed in OPERATION."""
    return _IN_OPERATION[kind]


def normalised(kind: Kind, data: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Those of ``names`` that ``data`` gives, text trimmed and null for a map or list taken as an empty one.

    Raises:
        InvalidEntityError: a whole number is too large to be kept, or text cannot be written as UTF-8.
    """
    taken: dict[str, Any] = {}
    for name, field in attrs.fields_dict(kind).items():
        if name not in names or name not in data:
            continue
        value = data[name]
        if isinstance(value, str):
            value = value.strip()
        elif value is None and (empty := getattr(field.default, "factory", None)):
            value = empty()
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise InvalidEntityError(f"{name} is too large: {value}.")
        taken[name] = value
    return taken
