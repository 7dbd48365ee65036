"""Whether a container can play a role, in words that say what to change."""

from __future__ import annotations

import attrs
import pytest

from medperf_core.entities.roles import TASKS, Role, VolumeKind
from medperf_core.entities.spec import CommandStyle, ContainerSpec, TaskSpec, VolumeSpec
from medperf_core.plugin.role_check import check_role


def fitting(role: Role, *, all_of_it: bool = False) -> ContainerSpec:
    """A container with what the role requires, or with all that the core offers."""
    return ContainerSpec(
        format="any",
        name="c",
        tasks={
            name: TaskSpec(
                name,
                tuple(
                    VolumeSpec(rule.label, rule.writable, rule.kind, rule.label)
                    for rule in rules
                    if rule.required or all_of_it
                ),
                CommandStyle.MLCUBE,
            )
            for name, rules in TASKS[role].items()
        },
    )


def changed(spec: ContainerSpec, task: str, volumes: tuple[VolumeSpec, ...]) -> ContainerSpec:
    return attrs.evolve(spec, tasks={**spec.tasks, task: attrs.evolve(spec.tasks[task], volumes=volumes)})


def extended(spec: ContainerSpec, task: str, *more: VolumeSpec) -> ContainerSpec:
    return changed(spec, task, (*spec.tasks[task].volumes, *more))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("all_of_it", [True, False])
def test_what_fits(role: Role, all_of_it: bool) -> None:
    assert check_role(fitting(role, all_of_it=all_of_it), role) == []


@pytest.mark.parametrize("role", Role)
def test_each_required_task_and_volume_is_missed(role: Role) -> None:
    spec = fitting(role)
    for name, task in spec.tasks.items():
        without = attrs.evolve(spec, tasks={key: item for key, item in spec.tasks.items() if key != name})
        (problem,) = check_role(without, role)
        assert problem.startswith(f"The task {name} is missing")
        for index, volume in enumerate(task.volumes):
            rest = task.volumes[:index] + task.volumes[index + 1 :]
            (problem,) = check_role(changed(spec, name, rest), role)
            word = "output" if volume.writable else "input"
            assert problem.startswith(f"{name}: add the {word} {volume.label} (a ")


@pytest.mark.parametrize("role", Role)
def test_each_volume_keeps_its_direction_and_kind(role: Role) -> None:
    spec = fitting(role)
    for name, task in spec.tasks.items():
        for index, volume in enumerate(task.volumes):
            before, after = task.volumes[:index], task.volumes[index + 1 :]
            turned = attrs.evolve(volume, writable=not volume.writable)
            (problem,) = check_role(changed(spec, name, (*before, turned, *after)), role)
            assert f"{name}: {volume.label} must be an " in problem
            other = VolumeKind.FILE if volume.kind is VolumeKind.DIRECTORY else VolumeKind.DIRECTORY
            (problem,) = check_role(changed(spec, name, (*before, attrs.evolve(volume, kind=other), *after)), role)
            assert f"{name}: {volume.label} must be a " in problem


def test_extra_inputs_only_from_parameters_and_additional_files() -> None:
    spec = fitting(Role.MODEL)
    good = extended(
        spec,
        "infer",
        VolumeSpec("config", False, VolumeKind.FILE, "parameters_file"),
        VolumeSpec("weights", False, VolumeKind.FILE, "additional_files", "w.pt"),
        VolumeSpec("all", False, VolumeKind.DIRECTORY, "additional_files"),
    )
    assert check_role(good, Role.MODEL) == []
    bad = extended(spec, "infer", VolumeSpec("labels_path", False, VolumeKind.DIRECTORY, "labels_path"))
    assert check_role(bad, Role.MODEL) == [
        "infer: remove the input labels_path, or keep its file with the container as parameters_file or below "
        "additional_files/; the inputs of this task are: parameters_file, additional_files, data_path."
    ]


def test_no_extra_outputs() -> None:
    bad = extended(fitting(Role.METRICS), "evaluate", VolumeSpec("logs", True, VolumeKind.DIRECTORY, "logs"))
    assert check_role(bad, Role.METRICS) == [
        "evaluate: remove the output logs; the outputs of this task are: output_path, local_outputs_path."
    ]
    cache = extended(
        fitting(Role.MODEL), "infer", VolumeSpec("cache", True, VolumeKind.DIRECTORY, "additional_files", "c")
    )
    assert check_role(cache, Role.MODEL) == ["infer: cache must be an input, not an output."]


def test_all_problems_at_once_and_other_tasks_left_alone() -> None:
    other = TaskSpec("train", (VolumeSpec("x", True, VolumeKind.FILE, "x"),), CommandStyle.FIXED)
    tasks = {"train": other, "evaluate": attrs.evolve(other, name="evaluate")}
    spec = ContainerSpec(format="any", name="c", tasks=tasks)
    assert len(check_role(spec, Role.DATA_PREPARATOR)) == 3
    assert len(check_role(spec, Role.METRICS)) == 4
