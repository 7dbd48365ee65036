"""Whether a container can play a role: everything that is missing or too much, in one pass."""

from __future__ import annotations

from medperf_core.entities.roles import ADDITIONAL_FILES, PARAMETERS, TASKS, Role, VolumeKind, VolumeRule, volume_rules
from medperf_core.entities.spec import ContainerSpec, TaskSpec

_NOUNS = {Role.DATA_PREPARATOR: "data preparator", Role.MODEL: "model", Role.METRICS: "evaluator"}


def check_role(spec: ContainerSpec, role: Role) -> list[str]:
    """What keeps a container from playing a role, one sentence each that says what to change; empty if nothing does.

    Every task of the role must be there, with all volumes that the role requires and no volume that the core does
    not offer to it: an input must be one of the role's, the parameters file, or something of the additional files;
    an output must be one of the role's. Tasks that no role knows are left alone.
    """
    problems: list[str] = []
    for name in TASKS[role]:
        task = spec.tasks.get(name)
        if task is None:
            problems.append(f"The task {name} is missing: add it, because every {_NOUNS[role]} needs it.")
        else:
            problems += _check_task(task)
    return problems


def _check_task(task: TaskSpec) -> list[str]:
    rules = volume_rules(task.name)
    offers = {volume.offer for volume in task.volumes}
    problems = [
        f"{task.name}: add the {_direction(rule.writable)} {rule.label} ({_noun(rule.kind)})."
        for rule in rules.values()
        if rule.required and rule.label not in offers
    ]
    for volume in task.volumes:
        found = rules.get(volume.offer)
        if found is None:
            problems.append(_unknown(task.name, volume.label, volume.writable, rules))
            continue
        if volume.writable != found.writable:
            problems.append(
                f"{task.name}: {volume.label} must be an {_direction(found.writable)}, not an "
                f"{_direction(volume.writable)}."
            )
        if not volume.subpath and volume.kind is not found.kind:
            problems.append(f"{task.name}: {volume.label} must be {_noun(found.kind)}, not {_noun(volume.kind)}.")
    return problems


def _unknown(task: str, label: str, writable: bool, rules: dict[str, VolumeRule]) -> str:
    known = [rule.label for rule in rules.values() if rule.writable == writable]
    listed = ", ".join(known) or "none"
    if writable:
        return f"{task}: remove the output {label}; the outputs of this task are: {listed}."
    return (
        f"{task}: remove the input {label}, or keep its file with the container as {PARAMETERS} or below "
        f"{ADDITIONAL_FILES}/; the inputs of this task are: {listed}."
    )


def _direction(writable: bool) -> str:
    return "output" if writable else "input"


def _noun(kind: VolumeKind) -> str:
    return "a file" if kind is VolumeKind.FILE else "a folder"
