"""Where volumes stand inside a container, by format."""

from __future__ import annotations

from pathlib import Path

from medperf_core.entities import CommandStyle, TaskSpec, VolumeSpec
from medperf_core.entities.roles import VolumeKind
from medperf_core.plugin import Mount
from medperf_core.plugin.layout import Bind, container_layout

VOLUMES = (
    VolumeSpec("data_path", False, VolumeKind.DIRECTORY, "data_path", mount_path="/in/data"),
    VolumeSpec("weights", False, VolumeKind.FILE, "additional_files", "w.json", mount_path="/in/w.json"),
    VolumeSpec("output_path", True, VolumeKind.FILE, "output_path", mount_path="/out/results.yaml"),
)
MOUNTS = (
    Mount("data_path", Path("/h/data"), VolumeKind.DIRECTORY, writable=False),
    Mount("weights", Path("/h/extra/w.json"), VolumeKind.FILE, writable=False),
    Mount("output_path", Path("/h/out/results.yaml"), VolumeKind.FILE, writable=True),
)


def test_mlcube_passes_the_task_and_numbered_places() -> None:
    layout = container_layout(TaskSpec("infer", VOLUMES, CommandStyle.MLCUBE), MOUNTS)
    assert layout.binds == (
        Bind(Path("/h/data"), "/mlcube_io0", False),
        Bind(Path("/h/extra/w.json"), "/mlcube_io1/w.json", False),
        Bind(Path("/h/out"), "/mlcube_io2", True),
    )
    assert layout.entrypoint == ()
    assert layout.command == (
        "infer",
        "--data_path=/mlcube_io0",
        "--weights=/mlcube_io1/w.json",
        "--output_path=/mlcube_io2/results.yaml",
    )


def test_an_mlcube_entrypoint_replaces_the_image_s_and_gets_no_task_name() -> None:
    task = TaskSpec("infer", VOLUMES[:1], CommandStyle.MLCUBE, entrypoint=("gandlf", "run", "--train", "False"))
    layout = container_layout(task, MOUNTS)
    assert layout.entrypoint == ("gandlf",)
    assert layout.command == ("run", "--train", "False", "--data_path=/mlcube_io0")


def test_a_container_configuration_fixes_paths_and_command() -> None:
    task = TaskSpec("infer", VOLUMES, CommandStyle.FIXED, entrypoint=("python3",), command=("/x.py", "a b"))
    layout = container_layout(task, MOUNTS)
    assert layout.binds[2] == Bind(Path("/h/out/results.yaml"), "/out/results.yaml", True)
    assert (layout.entrypoint, layout.command) == (("python3",), ("/x.py", "a b"))


def test_s2_the_manifest_does_not_decide_what_is_writable() -> None:
    mounts = (Mount("output_path", Path("/h/out/results.yaml"), VolumeKind.FILE, writable=False),)
    layout = container_layout(TaskSpec("infer", VOLUMES[2:], CommandStyle.FIXED), mounts)
    assert layout.binds[0].writable is False
