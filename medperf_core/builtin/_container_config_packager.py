"""Reads ``container_config.yaml``, the public MedPerf client's format since 2025.

The format has no version and its first reader ignored what it did not know; here all of it is checked when it is
read: keys, volumes, their places in the container, and their direction, which is the core's to decide.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from medperf_core.builtin._manifests import (
    MAX_DESCRIPTION,
    Reading,
    image_name,
    is_known,
    local_files,
    shown,
)
from medperf_core.builtin._process_section import PROJECT, ProcessSection, read_process
from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.entities.roles import VolumeKind, VolumeRule, volume_rules
from medperf_core.entities.spec import CommandStyle, ContainerSpec, TaskSpec, VolumeSpec
from medperf_core.errors import UsageError
from medperf_core.plugin import Gpus, LocalFiles, Manifest, Packager

_TOP = ("container_type", "image", "tasks", "name", "description", "process")
_RUN_ARGS = ("command", "entrypoint", "environment", "shm_size", "gpus")
_FILE_TYPES = {"DockerArchive": SourceKind.ARCHIVE, "SingularityFile": SourceKind.SIF}
_TYPES = ("DockerImage", *_FILE_TYPES)
_ENCRYPTED = ("EncryptedDockerArchive", "EncryptedSingularityFile")
_CLOSED = ("proc", "sys", "dev", "etc", "run", "var/run", "boot", "tmp")
"""Folders of the container's root in which nothing may be mounted; of the next ones only not over themselves."""
_CLOSED_ITSELF = (
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/var",
    "/opt",
    "/home",
    "/root",
    "/mnt",
    "/srv",
)


class ContainerConfigPackager(Packager):
    """See the module."""

    file_names = ("container_config.yaml",)

    def recognizes(self, data: dict[str, Any]) -> bool:
        """A map with a ``container_type``."""
        return "container_type" in data

    def files(self, manifest: Path) -> LocalFiles:
        """The files in ``workspace``, beside the manifest or in a folder ``mlcube`` beside it."""
        return local_files(manifest)

    def read(self, manifest: Manifest) -> ContainerSpec:
        """The description of what the manifest says; see ``Packager.read``."""
        reading = Reading(manifest)
        top = reading.section(manifest.data, "", _TOP)
        tasks = dict(_tasks(reading, top.get("tasks")))
        process = read_process(
            reading,
            top.get("process"),
            {name: [volume.label for volume in task.volumes] for name, task in tasks.items()},
        )
        sources = _sources(reading, top, process)
        name = reading.title(top)
        description = reading.text(top, "description", "", MAX_DESCRIPTION, lines=True)
        reading.finish()
        return ContainerSpec(
            format="container-config",
            name=name,
            tasks={
                key: attrs.evolve(task, process_command=process.commands.get(key, ())) for key, task in tasks.items()
            },
            sources=sources,
            description=description,
            project=str(process.project) if process.project else None,
            carried=reading.carried,
            notes=tuple(reading.notes),
        )

    def template(self, data: dict[str, Any], name: str) -> dict[str, Any]:
        """See ``Packager.template``. The new one names an image of its own in a registry."""
        self.read(Manifest(data, None, f"that {name} is made from"))
        new = {**data, "name": name, "container_type": "DockerImage", "image": image_name(name)}
        if data.get("process"):
            new["process"] = {**data["process"], "project": PROJECT}
        return new


def _sources(reading: Reading, top: Mapping[str, Any], process: ProcessSection) -> tuple[ImageSource, ...]:
    kind = reading.text(top, "container_type", "")
    image = reading.text(top, "image", "", 2000)
    trees = [ImageSource(SourceKind.TREE, str(process.project))] if process.project else []
    reading.carried["container_type"] = kind
    if kind in _ENCRYPTED:
        reading.refuse(
            "container_type",
            f"{kind} is not supported yet: this version cannot run encrypted images; "
            f"publish the image as one of {', '.join(_TYPES)}",
        )
    elif kind not in _TYPES:
        reading.refuse("container_type", f"must be one of {', '.join(_TYPES)}, not {shown(kind)}")
    elif not image:
        reading.refuse("image", "is missing: where the image is")
    elif kind == "DockerImage":
        return tuple(source for source in (reading.reference(image, "image"), *trees) if source)
    else:
        reading.carried["image_url"] = image
        base = reading.manifest.base
        found = reading.inner_file(base.absolute(), image) if base is not None else None
        return (*((ImageSource(_FILE_TYPES[kind], str(found)),) if found else ()), *trees)
    return ()


def _tasks(reading: Reading, value: Any) -> Iterator[tuple[str, TaskSpec]]:
    tasks = reading.labels(value, "tasks", "task")
    if value is None or value == {}:
        reading.refuse("tasks", "there are none")
    for name, content in tasks.items():
        place = f"tasks.{name}"
        task = reading.section(content, place, ("run_args", "input_volumes", "output_volumes"))
        run_args = reading.section(task.get("run_args"), f"{place}.run_args", _RUN_ARGS)
        yield (
            name,
            TaskSpec(
                name=name,
                volumes=tuple(_volumes(reading, name, task)),
                style=CommandStyle.FIXED,
                entrypoint=reading.words(run_args.get("entrypoint", ""), f"{place}.run_args.entrypoint"),
                command=reading.words(run_args.get("command", ""), f"{place}.run_args.command"),
                environment=reading.environment(run_args.get("environment", {}), f"{place}.run_args.environment"),
                shm_size=(
                    reading.shm_size(run_args["shm_size"], f"{place}.run_args.shm_size")
                    if "shm_size" in run_args
                    else None
                ),
                gpus=_gpus(reading, run_args["gpus"], f"{place}.run_args.gpus") if "gpus" in run_args else None,
            ),
        )


def _gpus(reading: Reading, value: Any, place: str) -> str | None:
    plain = isinstance(value, (str, int)) and not isinstance(value, bool)
    text = str(value) if plain and len(str(value)) <= 200 else shown(value)
    try:
        return str(Gpus.parse(text))
    except UsageError as error:
        reading.refuse(place, str(error))
        return None


def _volumes(reading: Reading, task: str, content: Mapping[str, Any]) -> Iterator[VolumeSpec]:
    rules = volume_rules(task)
    seen: dict[str, str] = {}
    for direction in ("input_volumes", "output_volumes"):
        place = f"tasks.{task}.{direction}"
        for label, volume in reading.labels(content.get(direction), place, "volume").items():
            inner = f"{place}.{label}"
            writable = direction == "output_volumes"
            if label in seen:
                reading.refuse(inner, "is an input already; it cannot be an output too")
            elif label not in rules and is_known(task):
                listed = ", ".join(rule.label for rule in rules.values() if rule.writable == writable)
                reading.refuse(inner, f"{task} has no such volume. Here it may have: {listed or 'nothing'}")
            spec = _volume(reading, task, label, volume, inner, rules.get(label), writable=writable)
            if spec is not None and spec.mount_path is not None:
                _check_apart(reading, inner, spec.mount_path, seen)
                yield spec
                seen[label] = spec.mount_path


def _volume(
    reading: Reading, task: str, label: str, content: Any, place: str, rule: VolumeRule | None, *, writable: bool
) -> VolumeSpec | None:
    section = reading.section(content, place, ("mount_path", "type"))
    missing = [key for key in ("mount_path", "type") if key not in section]
    if missing:
        if content is None or isinstance(content, dict):
            reading.refuse(place, f"{' and '.join(missing)} must be given")
        return None
    if section["type"] not in ("file", "directory"):
        reading.refuse(f"{place}.type", f"must be file or directory, not {shown(section['type'])}")
        return None
    kind = VolumeKind(section["type"])
    reading.check_volume(place, task, rule, writable=writable, kind=kind)
    path = _mount_path(reading, section["mount_path"], f"{place}.mount_path")
    if path is None:
        return None
    return VolumeSpec(label=label, writable=writable, kind=kind, offer=label, mount_path=path)


def _mount_path(reading: Reading, value: Any, place: str) -> str | None:
    """An absolute place in the container, in one spelling; commas and colons would say something else to an engine."""
    if not isinstance(value, str) or not value.startswith("/") or len(value) > 1000:
        reading.refuse(place, f"must be an absolute path in the container, not {shown(value)}")
        return None
    if not value.isprintable() or any(char in value for char in ",:\\\"'$") or ".." in PurePosixPath(value).parts:
        reading.refuse(
            place, f"{shown(value)} must not have '..', commas, colons, quotes, '$', '\\' or control characters"
        )
        return None
    path = "/" + posixpath.normpath(value).lstrip("/")
    closed = [folder for folder in _CLOSED if PurePosixPath(path).is_relative_to(f"/{folder}")]
    if path == "/" or closed or path in _CLOSED_ITSELF:
        reading.refuse(
            place, f"{path} belongs to the system of the container; choose a place such as /mlcommons/volumes/data"
        )
        return None
    return path


def _check_apart(reading: Reading, place: str, path: str, seen: Mapping[str, str]) -> None:
    for label, other in seen.items():
        first, second = PurePosixPath(path), PurePosixPath(other)
        if first.is_relative_to(second) or second.is_relative_to(first):
            reading.refuse(
                place,
                f"its mount_path {path} is the same as, or within, that of {label} ({other}), or the other way round",
            )
