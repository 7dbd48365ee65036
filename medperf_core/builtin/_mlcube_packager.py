"""Reads ``mlcube.yaml`` as it exists in the field since 2021, including what ``gandlf deploy`` writes.

What the reference MLCube runner would do with a file and this program does not (engine options, values taken from
the environment, paths of the host) is never done in silence: it is refused, or noted as ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from medperf_core.builtin._engine_args import EngineWishes, read_engine_args
from medperf_core.builtin._manifests import (
    ADDITIONAL_FOLDER,
    MAX_DESCRIPTION,
    PARAMETERS_NAME,
    WORKSPACE,
    Reading,
    image_name,
    is_known,
    is_there,
    local_files,
    ordered,
    relative_parts,
    shown,
)
from medperf_core.builtin._process_section import PROJECT, ProcessSection, read_process
from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.entities.roles import ADDITIONAL_FILES, PARAMETERS, VolumeKind, VolumeRule, volume_rules
from medperf_core.entities.spec import CommandStyle, ContainerSpec, TaskSpec, VolumeSpec
from medperf_core.plugin import LocalFiles, Manifest, Packager

_TOP = ("name", "description", "platform", "docker", "singularity", "tasks", "process")
_TOP_CARRIED = (
    "authors",
    "author",
    "version",
    "license",
    "mlcube_spec_version",
    "schema_version",
    "schema_type",
    "runner",
    "gcp",
    "k8s",
    "kubeflow",
    "ssh",
)
_PLATFORM = ("accelerator_count", "need_internet_access")
_PLATFORM_CARRIED = ("accelerator_maker", "accelerator_model", "host_memory_gb", "host_disk_space_gb")
_DOCKER_FLAGS = ("--network", "--security-opt", "--memory", "--cpuset-cpus", "--gpus", "--mount_opts")
_DOCKER = (
    "image",
    "build_context",
    "build_file",
    "build_strategy",
    "cpu_args",
    "gpu_args",
    "run_args",
    "env_args",
    "tar_file",
    *_DOCKER_FLAGS,
)
_DOCKER_CARRIED = ("docker", "build_args")
_SINGULARITY = ("image", "run_args")
_SINGULARITY_CARRIED = (
    "image_dir",
    "build_context",
    "build_file",
    "build_args",
    "singularity",
    "--network",
    "--security",
    "--nv",
    "--vm-ram",
    "--vm-cpu",
    "--mount_opts",
)
_STRATEGIES = ("pull", "auto", "always")
_IMAGES = ".image"
_WORKSPACE_WORDS = ("${workspace}/", "${runtime.workspace}/", "$WORKSPACE/")


class MlcubePackager(Packager):
    """See the module."""

    file_names = ("mlcube.yaml",)

    def recognizes(self, data: dict[str, Any]) -> bool:
        """A map with tasks and somewhere to get them run, without the other format's ``container_type``."""
        return (
            "container_type" not in data
            and "tasks" in data
            and bool(data.keys() & {"docker", "singularity", "process"})
        )

    def files(self, manifest: Path) -> LocalFiles:
        """The files in ``workspace`` beside the manifest."""
        return local_files(manifest)

    def read(self, manifest: Manifest) -> ContainerSpec:
        """The description of what the manifest says; see ``Packager.read``."""
        reading = Reading(manifest)
        top = reading.section(manifest.data, "", _TOP, _TOP_CARRIED)
        accelerators = _platform(reading, top.get("platform"))
        docker = reading.section(top.get("docker"), "docker", _DOCKER, _DOCKER_CARRIED)
        wishes = _wishes(reading, docker, accelerators)
        tasks = dict(_tasks(reading, top.get("tasks"), wishes))
        process = read_process(
            reading,
            top.get("process"),
            {name: [volume.label for volume in task.volumes] for name, task in tasks.items()},
        )
        sources = _sources(reading, docker, top, process)
        name = reading.title(top)
        description = reading.text(top, "description", "", MAX_DESCRIPTION, lines=True)
        reading.finish()
        return ContainerSpec(
            format="mlcube",
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
        """See ``Packager.template``. The new one names an image of its own, to be built from its project."""
        self.read(Manifest(data, None, f"that {name} is made from"))
        new = {key: item for key, item in data.items() if key != "singularity"}
        process = dict(data.get("process") or {})
        if process:
            new["process"] = {**process, "project": PROJECT}
        docker = dict(data.get("docker") or {})
        context = os.path.normpath(docker.get("build_context", "."))
        builds = "build_context" in docker and context == os.path.normpath(process.get("project", context))
        for key in ("build_strategy", "tar_file", "build_context", *(() if builds else ("build_file",))):
            docker.pop(key, None)
        if docker or builds:
            new["docker"] = {**docker, "image": image_name(name), **({"build_context": PROJECT} if builds else {})}
        return {**new, "name": name}


def _platform(reading: Reading, value: Any) -> int:
    """The number of accelerators that the manifest asks for."""
    platform = reading.section(value, "platform", _PLATFORM, _PLATFORM_CARRIED)
    count = platform.get("accelerator_count", 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 1024:
        reading.refuse("platform.accelerator_count", f"must be a whole number from 0, not {shown(count)}")
        count = 0
    if platform.get("need_internet_access"):
        reading.note("platform.need_internet_access is ignored: tasks run without network.")
    return count


def _wishes(reading: Reading, docker: Mapping[str, Any], accelerators: int) -> EngineWishes:
    """What the docker section asks for, for all tasks alike."""
    flags = [word for key in _DOCKER_FLAGS if key in docker for word in (f"{key}={docker[key]}",)]
    always = read_engine_args(reading, flags, "docker")
    read = {
        key: read_engine_args(reading, docker.get(key, ""), f"docker.{key}")
        for key in ("run_args", "cpu_args", "gpu_args")
    }
    chosen = ("cpu_args", "gpu_args") if not accelerators else ("gpu_args", "cpu_args")
    in_order = [always, read["run_args"], *(read[key] for key in chosen)]
    environment = {**read["run_args"].environment, **read[chosen[0]].environment, **_variables(reading, docker)}
    gpus = always.gpus or read["run_args"].gpus or read["gpu_args"].gpus
    if not accelerators and gpus:
        reading.note(f"docker asks for GPUs ({gpus}), but platform.accelerator_count is 0, so none are asked for.")
    return EngineWishes(
        shm_size=next((wishes.shm_size for wishes in in_order if wishes.shm_size), None),
        gpus=(gpus or str(accelerators)) if accelerators else None,
        environment=environment,
    )


def _variables(reading: Reading, docker: Mapping[str, Any]) -> dict[str, str]:
    value = docker.get("env_args", {})
    if isinstance(value, dict):
        return reading.environment(value, "docker.env_args")
    return read_engine_args(reading, value, "docker.env_args").environment


def _tasks(reading: Reading, value: Any, wishes: EngineWishes) -> Iterator[tuple[str, TaskSpec]]:
    if isinstance(value, list):
        reading.refuse("tasks", "must be a map of tasks; a list is the layout of 2020, which is not read any more")
        return
    tasks = reading.labels(value, "tasks", "task")
    if value is None or value == {}:
        reading.refuse("tasks", "there are none")
    for name, content in tasks.items():
        place = f"tasks.{name}"
        task = reading.section(content, place, ("entrypoint", "parameters"), ("description",))
        parameters = reading.section(task.get("parameters"), f"{place}.parameters", ("inputs", "outputs"))
        yield (
            name,
            TaskSpec(
                name=name,
                volumes=tuple(_volumes(reading, name, parameters)),
                style=CommandStyle.MLCUBE,
                entrypoint=reading.words(task.get("entrypoint", ""), f"{place}.entrypoint"),
                environment=dict(wishes.environment),
                shm_size=wishes.shm_size,
                gpus=wishes.gpus,
            ),
        )


def _volumes(reading: Reading, task: str, parameters: Mapping[str, Any]) -> Iterator[VolumeSpec]:
    rules = volume_rules(task)
    seen: set[str] = set()
    for direction in ("inputs", "outputs"):
        place = f"tasks.{task}.parameters.{direction}"
        for label, content in reading.labels(parameters.get(direction), place, "parameter").items():
            if label in seen:
                reading.refuse(f"{place}.{label}", "is an input already; it cannot be an output too")
            seen.add(label)
            volume = _volume(reading, task, label, content, f"{place}.{label}", rules, writable=direction == "outputs")
            if volume is not None:
                yield volume


def _volume(
    reading: Reading,
    task: str,
    label: str,
    content: Any,
    place: str,
    rules: Mapping[str, VolumeRule],
    *,
    writable: bool,
) -> VolumeSpec | None:
    section = (
        {"default": content}
        if isinstance(content, str)
        else reading.section(content, place, ("type", "default", "opts"), ("description",))
    )
    path = reading.text(section, "default", place, 1000) if "default" in section else label
    declared = section.get("type")
    if declared not in (None, "file", "directory"):
        reading.refuse(f"{place}.type", f"must be file or directory, not {shown(declared)}")
        return None
    _options(reading, section.get("opts"), place, writable=writable)
    for word in _WORKSPACE_WORDS:
        path = path.removeprefix(word)
    offer, subpath = (label, "") if writable else _offer(reading, label, path, place, rules)
    rule = rules.get(offer) if not subpath else None
    kind = VolumeKind(declared) if declared else _kind(reading, path, rule)
    # deployed GaNDLF files leave it open in tasks that no role has; there a guess does no harm
    if not declared and writable and rule is None and not path.endswith("/") and is_known(task):
        reading.refuse(
            place,
            "does not say whether it is a file or a folder: write {type: file, default: ...} or "
            "{type: directory, default: ...}",
        )
        return None
    reading.check_volume(place, task, rules.get(offer), writable=writable, kind=None if subpath else kind)
    return VolumeSpec(label=label, writable=writable, kind=kind, offer=offer, subpath=subpath)


def _options(reading: Reading, value: Any, place: str, *, writable: bool) -> None:
    if value not in (None, "ro", "rw"):
        reading.refuse(f"{place}.opts", f"must be ro or rw, not {shown(value)}")
    elif value and (value == "rw") != writable:
        reading.note(f"{place}.opts is ignored: inputs are always read-only, and outputs can be written.")


def _offer(reading: Reading, label: str, path: str, place: str, rules: Mapping[str, VolumeRule]) -> tuple[str, str]:
    """Which volume of the core an input is, and the place below it."""
    if label in rules and label != ADDITIONAL_FILES:
        if label == PARAMETERS and relative_parts(path) != (PARAMETERS_NAME,):
            reading.note(
                f"{place}: what the task gets is the container's parameters file "
                f"({WORKSPACE}/{PARAMETERS_NAME}), whatever the manifest calls it ({shown(path)})."
            )
        return label, ""
    parts = relative_parts(path)
    if parts is None:
        if label == ADDITIONAL_FILES or ADDITIONAL_FOLDER in path:
            reading.refuse(
                place,
                f"{shown(path)} must be a plain path below {ADDITIONAL_FOLDER}/, without '..', "
                "without '\\' and not absolute",
            )
        return label, ""
    if parts == (PARAMETERS_NAME,) and label != ADDITIONAL_FILES:
        return PARAMETERS, ""
    if parts[:1] == (ADDITIONAL_FOLDER,):
        return ADDITIONAL_FILES, "/".join(parts[1:])
    return label, ""


def _kind(reading: Reading, path: str, rule: VolumeRule | None) -> VolumeKind:
    """File or folder, where the manifest does not say."""
    if path.endswith(("/", "\\")):
        return VolumeKind.DIRECTORY
    if rule is not None:
        return rule.kind
    parts = relative_parts(path)
    if reading.manifest.base is not None and parts:
        here = reading.manifest.base.joinpath(WORKSPACE, *parts)
        if is_there(here):
            return VolumeKind.DIRECTORY if here.is_dir() else VolumeKind.FILE
    return VolumeKind.FILE if PurePosixPath(path).suffix else VolumeKind.DIRECTORY


def _sources(
    reading: Reading, docker: Mapping[str, Any], top: Mapping[str, Any], process: ProcessSection
) -> tuple[ImageSource, ...]:
    image = reading.text(docker, "image", "docker", 500)
    remote = [source for source in (reading.reference(image, "docker.image"),) if source] if image else []
    strategy = docker.get("build_strategy", "auto")
    if strategy not in _STRATEGIES:
        reading.refuse("docker.build_strategy", f"must be one of {', '.join(_STRATEGIES)}, not {shown(strategy)}")
    if "docker.build_args" in reading.carried:
        reading.note("docker.build_args is ignored: images are built without arguments from a manifest.")
    local = _trees(reading, docker, image, process)
    archive = reading.text(docker, "tar_file", "docker")
    if archive:
        local += _kept_image(reading, archive, "docker.tar_file", SourceKind.ARCHIVE)
    sif = _singularity(reading, top.get("singularity"))
    if not (image or archive or sif or process.place):
        reading.refuse("docker", "image is missing: the manifest does not say where its image is")
    if sif:
        kept = _kept_image(reading, sif, "singularity.image", SourceKind.SIF)
        if not kept:
            reading.note(
                f"singularity.image is ignored: {shown(sif)} is not in {WORKSPACE}/{_IMAGES}"
                f"{'; docker.image is used' if image else ''}."
            )
        remote += kept
    here = reading.manifest.base is not None or reading.manifest.project is not None
    return ordered(local, remote, local_first=strategy != "pull" and here)


def _trees(reading: Reading, docker: Mapping[str, Any], image: str, process: ProcessSection) -> list[ImageSource]:
    """The project as it is, and the build context; one source if they are the same folder."""
    asked = "build_context" in docker or "build_file" in docker
    written = reading.text(docker, "build_context", "docker", 1000) or "."
    build_file = reading.text(docker, "build_file", "docker", 1000) or "Dockerfile"
    context = None
    if asked:
        if reading.manifest.project is not None and os.path.normpath(written) == os.path.normpath(process.place or "?"):
            context = process.project
        else:
            try:
                context = reading.folder(written)
            except ValueError as error:
                reading.note(f"docker.build_context is ignored: {error}.")
    recipe = reading.inner_file(context, build_file) if context else None
    if context and recipe is None:
        reading.note(f"docker.build_file: {shown(build_file)} is not in the build context, so nothing is built here.")
    trees = []
    if context and recipe:
        dockerfile = recipe.relative_to(context.resolve()).as_posix()
        trees.append(ImageSource(SourceKind.TREE, str(context), dockerfile, image or None))
    if process.project and not (trees and process.project.resolve() == Path(trees[0].location).resolve()):
        trees.append(ImageSource(SourceKind.TREE, str(process.project), None, image or None))
    return trees


def _singularity(reading: Reading, value: Any) -> str:
    """The name of the image file of a singularity section."""
    section = reading.section(value, "singularity", _SINGULARITY, _SINGULARITY_CARRIED)
    if "run_args" in section:
        reading.carried["singularity.run_args"] = section["run_args"]
        reading.note("singularity.run_args is ignored: the site decides how a task is isolated.")
    image = reading.text(section, "image", "singularity")
    if image:
        reading.carried["singularity.image"] = image
    return image


def _kept_image(reading: Reading, name: str, place: str, kind: SourceKind) -> list[ImageSource]:
    """An image file in the folder where MLCubes keep them."""
    reading.carried.setdefault(place, name)
    if reading.manifest.base is None:
        return []
    folder = reading.manifest.base.absolute() / WORKSPACE / _IMAGES
    found = reading.inner_file(folder, name)
    return [ImageSource(kind, str(found))] if found else []
