"""The canonical description of a container: what every manifest format is read into.

Volumes stay symbolic here (label, direction, file or folder). Only a runner turns them into paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs

from medperf_core.entities import checks
from medperf_core.entities.image import ImageSource
from medperf_core.entities.roles import VolumeKind
from medperf_core.errors import InvalidEntityError


def _label(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not checks.TASK_OR_LABEL.fullmatch(value):
        raise InvalidEntityError(
            f"The {attribute.name} {value!r} is not usable: letters, digits, '_', '-' and '.' only, at most 64."
        )


@attrs.frozen
class VolumeSpec:
    """A file or folder that a task reads or writes.

    Attributes:
        label: the volume's name in the manifest, such as ``data_path``.
        writable: whether the manifest calls it an output. What is really mounted writable is the core's decision.
        kind: file or folder.
        offer: which of the core's volumes it is (``data_path``, ``parameters_file``, ``additional_files``, ...).
        subpath: the place below that volume, such as ``weights.json`` below ``additional_files``; "" for all of it.
        mount_path: the absolute path in the container that the manifest fixes; None if the runner may choose.
    """

    label: str = attrs.field(validator=_label)
    writable: bool
    kind: VolumeKind = attrs.field(converter=VolumeKind)
    offer: str
    subpath: str = ""
    mount_path: str | None = None


class CommandStyle(StrEnum):
    """How a container is told what to do."""

    MLCUBE = "mlcube"
    """The image's entrypoint gets the task's name and ``--label=path`` for each volume."""
    FIXED = "fixed"
    """The image's own command, or exactly the command of the manifest; volumes are at fixed paths."""


@attrs.frozen
class TaskSpec:
    """One task of a container.

    Attributes:
        name: the task's name, such as ``infer``.
        volumes: what it reads and writes.
        style: how the command is made up.
        entrypoint: replaces the image's entrypoint when not empty.
        command: arguments after the entrypoint, for the fixed style.
        environment: variables that the manifest sets.
        shm_size: asked size of /dev/shm, such as ``2g``; None for the engine's default.
        gpus: the GPUs that the manifest asks for (``all``, a count, ``device=0,1``); None if it says nothing.
        process_command: argv for the ``process`` runner with ``{label}`` placeholders; empty if there is none.
    """

    name: str = attrs.field(validator=_label)
    volumes: tuple[VolumeSpec, ...]
    style: CommandStyle = attrs.field(converter=CommandStyle)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict)
    shm_size: str | None = None
    gpus: str | None = None
    process_command: tuple[str, ...] = ()


@attrs.frozen
class ContainerSpec:
    """A container as its manifest describes it.

    Attributes:
        format: the packager's name, such as ``mlcube``.
        name: what the manifest calls it; "" if it does not say.
        tasks: by name.
        sources: where its image may be had, the manifest's first choice first. Paths are absolute.
        description: free text.
        project: absolute path of the source tree of a ``process:`` section; None if there is none.
        carried: keys that were read and are kept without meaning to this program, such as authors.
        notes: what the reader should know about how the manifest was understood, one sentence each.
    """

    format: str
    name: str
    tasks: Mapping[str, TaskSpec]
    sources: tuple[ImageSource, ...] = ()
    description: str = ""
    project: str | None = None
    carried: Mapping[str, Any] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()

    def task(self, name: str) -> TaskSpec:
        """The task called ``name``.

        Raises:
            InvalidEntityError: there is none; the message lists those there are.
        """
        if name not in self.tasks:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise InvalidEntityError(f"The container {self.name or '(unnamed)'} has no task {name!r}; it has: {known}.")
        return self.tasks[name]
