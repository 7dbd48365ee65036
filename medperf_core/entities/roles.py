"""What each role's container must offer, and which of a task's volumes it may write.

The core decides what is writable by role and task; a manifest can leave optional volumes out but can never turn
an input into an output. Labels and tasks are those of the field (MedPerf container configurations since 2023).
"""

from __future__ import annotations

from enum import StrEnum

import attrs


class Role(StrEnum):
    """What a container is for."""

    DATA_PREPARATOR = "data-preparator"
    MODEL = "model"
    METRICS = "metrics"


class VolumeKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"


@attrs.frozen
class VolumeRule:
    """One volume that the core offers to a task: its label, kind, direction, and whether a container must take it."""

    label: str
    kind: VolumeKind
    writable: bool
    required: bool = True


def _in(label: str, *, required: bool = True) -> VolumeRule:
    return VolumeRule(label, VolumeKind.DIRECTORY, writable=False, required=required)


def _out(label: str, kind: VolumeKind = VolumeKind.DIRECTORY, *, required: bool = True) -> VolumeRule:
    return VolumeRule(label, kind, writable=True, required=required)


PARAMETERS = "parameters_file"
ADDITIONAL_FILES = "additional_files"
COMMON_VOLUMES = (
    VolumeRule(PARAMETERS, VolumeKind.FILE, writable=False, required=False),
    VolumeRule(ADDITIONAL_FILES, VolumeKind.DIRECTORY, writable=False, required=False),
)
"""Offered to every task of every role."""

TASKS: dict[Role, dict[str, tuple[VolumeRule, ...]]] = {
    Role.DATA_PREPARATOR: {
        "prepare": (
            _in("data_path"),
            _in("labels_path"),
            _out("output_path"),
            _out("output_labels_path"),
            _out("metadata_path", required=False),
            _out("report_file", VolumeKind.FILE, required=False),
        ),
        "sanity_check": (_in("data_path"), _in("labels_path"), _in("metadata_path", required=False)),
        "statistics": (
            _in("data_path"),
            _in("labels_path"),
            _in("metadata_path", required=False),
            _out("output_path", VolumeKind.FILE),
        ),
    },
    Role.MODEL: {"infer": (_in("data_path"), _out("output_path"))},
    Role.METRICS: {
        "evaluate": (
            _in("predictions"),
            _in("labels"),
            _out("output_path", VolumeKind.FILE),
            _out("local_outputs_path", required=False),
        )
    },
}


def volume_rules(task: str) -> dict[str, VolumeRule]:
    """The rules of all volumes that the core offers to ``task``, by label; for an unknown task the common ones."""
    own = next((tasks[task] for tasks in TASKS.values() if task in tasks), ())
    return {rule.label: rule for rule in (*COMMON_VOLUMES, *own)}


def role_of(tasks: frozenset[str]) -> Role | None:
    """The role that a container with these tasks plays, None if it plays none of the known ones."""
    return next((role for role, needed in TASKS.items() if needed.keys() <= tasks), None)
