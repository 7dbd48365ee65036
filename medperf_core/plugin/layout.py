"""Where a task's volumes stand inside a container, and the arguments that tell the container so.

Shared by container runners, so that a task sees the same paths on every engine. The conventions are those of the
two manifest formats: MLCube passes ``--label=path`` with folders at ``/mlcube_io<N>``; a container configuration
fixes each path itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from medperf_core.entities.roles import VolumeKind
from medperf_core.entities.spec import CommandStyle, TaskSpec
from medperf_core.plugin.runner import Mount


@attrs.frozen
class Bind:
    """One bind mount: a path on this machine, its place in the container, and whether it may be written."""

    host: Path
    target: str
    writable: bool


@attrs.frozen
class Layout:
    """A task's binds and its command.

    Attributes:
        binds: in the order of the manifest.
        entrypoint: replaces the image's entrypoint; empty to keep it.
        command: arguments after the entrypoint; empty to keep the image's own command.
    """

    binds: tuple[Bind, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]


def container_layout(task: TaskSpec, mounts: tuple[Mount, ...]) -> Layout:
    """Lay out a task's volumes in a container.

    An output file of the MLCube style is bound by its parent folder, which holds nothing else, so that a program may
    replace it atomically; a file at a fixed path is bound by itself, because its folder belongs to the image.
    """
    by_label = {mount.label: mount for mount in mounts}
    binds: list[Bind] = []
    arguments: list[str] = []
    for index, volume in enumerate(task.volumes):
        mount = by_label[volume.label]
        if task.style is CommandStyle.FIXED:
            binds.append(Bind(mount.path, volume.mount_path or f"/mlcommons/volumes/{volume.label}", mount.writable))
            continue
        place = f"/mlcube_io{index}"
        if mount.kind is VolumeKind.DIRECTORY:
            binds.append(Bind(mount.path, place, mount.writable))
            arguments.append(f"--{volume.label}={place}")
        else:
            inside = f"{place}/{mount.path.name}"
            host, target = (mount.path.parent, place) if mount.writable else (mount.path, inside)
            binds.append(Bind(host, target, mount.writable))
            arguments.append(f"--{volume.label}={inside}")
    if task.style is CommandStyle.FIXED:
        return Layout(tuple(binds), task.entrypoint, task.command)
    name = () if task.entrypoint else (task.name,)
    return Layout(tuple(binds), task.entrypoint[:1], (*task.entrypoint[1:], *name, *arguments))


def nested(bind: Bind, mounts: Path = Path("/proc/self/mountinfo")) -> Iterator[Bind]:
    """File systems that are mounted below a bind's path, as binds of their own.

    Engines leave such a mount writable inside a read-only one unless it is mounted read-only by itself.
    """
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    root = str(bind.host.resolve())
    for line in lines:
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4])
        if place.startswith(root.rstrip("/") + "/"):
            place = place.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
            yield Bind(Path(place), bind.target.rstrip("/") + place.removeprefix(root.rstrip("/")), bind.writable)
