"""Package a container: check its role and write all that its owner has to host into ``deploy/``."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities import ContainerSpec, IdentityKind, ImageIdentity, Role, SourceKind
from medperf_core.entities.roles import ADDITIONAL_FILES, PARAMETERS, TASKS, role_of
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.containers import LocalContainer, read_local
from medperf_core.plugin.digest import IGNORED_IN_SOURCES, file_digest, source_digest
from medperf_core.plugin.events import Progress, StepFinished, StepStarted
from medperf_core.plugin.manifest import load_yaml
from medperf_core.plugin.role_check import check_role
from medperf_core.site.archive import pack_tree
from medperf_core.site.folders import make_folder
from medperf_core.site.site import Site

FOLDER = "deploy"
INDEX = "manifest.json"
PARAMETERS_FILE = "parameters.yaml"
ADDITIONAL_FILE = "additional_files.tar.gz"
PROJECT_FILE = "project.tar.gz"
PROGRESS_BYTES = 1 << 20
"""Between two events while packing; a folder may have very many small files."""


@attrs.frozen
class PackagedFile:
    """A file to host.

    Attributes:
        name: in the package's folder.
        size: bytes.
        sha256: of the file.
        tar_sha256: of the tar inside, which is the same whatever compressed it; "" if it is no archive.
        count: of the files and links in an archive.
        names: the paths of the first of them.
    """

    name: str
    size: int
    sha256: str
    tar_sha256: str = ""
    count: int = 0
    names: tuple[str, ...] = ()


@attrs.frozen
class Package:
    """A package that was written.

    Attributes:
        folder: where its files are.
        role: what the container is for.
        files: what has to be hosted.
        images: identities that are known from its files.
        image_file: the image archive or SIF of the manifest, which has to be hosted too and is not copied.
    """

    folder: Path
    role: Role
    files: tuple[PackagedFile, ...]
    images: tuple[ImageIdentity, ...]
    image_file: Path | None = None


def package(site: Site, path: Path, role: Role | None = None, output: Path | None = None) -> Package:
    """Check a container and write its package.

    Args:
        path: its manifest or the folder of it.
        role: what it must be able to do; None to go by its tasks.
        output: folder to write; None for ``deploy`` beside the manifest. One that holds something else is refused.

    Raises:
        DeniedError: a folder of it is, holds or leads to data.
        InvalidEntityError: the container is not complete; everything that is wrong is listed.
    """
    local = read_local(site, path)
    for note in local.spec.notes:
        site.notice(f"{local.manifest.name}: {note}", level="warning")
    found_role = role or role_of(frozenset(local.spec.tasks))
    problems = check_container(local, found_role)
    if problems or found_role is None:
        raise InvalidEntityError(f"{local.path} cannot be packaged:", problems=problems)
    if local.files.parameters is not None and load_yaml(local.files.parameters, follow_links=True) is None:
        site.notice(f"{local.files.parameters} holds nothing, so the tasks get no parameters.", level="warning")
    target = output or local.path.parent / FOLDER
    if target.exists() and not _is_package(target):
        raise UsageError(f"{target} was not made by packaging, so it is not replaced.", hint="Give another --output.")
    sources = [local.path, local.files.parameters, local.files.additional_files, local.spec.project]
    packed = [Path(each) for each in sources if each]
    site.data_folders.refuse(packed, "packed")
    staged = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    make_folder(staged, f"The package {target}")
    try:
        files, images = _write(site, local, staged)
        site.data_folders.refuse(packed, "packed")  # once more: packing takes its time, and others use this machine
        index = {
            "format": local.spec.format,
            "name": local.spec.name,
            "role": found_role.value,
            "files": [attrs.asdict(item, filter=attrs.filters.exclude("count", "names")) for item in files],
            "images": [str(image) for image in images],
        }
        (staged / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _replace(target, staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Package(target, found_role, files, images, _image_file(local.spec))


def check_container(local: LocalContainer, role: Role | None) -> list[str]:
    """All that keeps a local container from being packaged, in words that say what to change."""
    problems: list[str] = []
    if role is None:
        roles = "; ".join(f"{name.value}: {', '.join(tasks)}" for name, tasks in TASKS.items())
        problems.append(f"its tasks ({', '.join(local.spec.tasks) or 'none'}) fit no role; the roles are {roles}")
    else:
        problems += check_role(local.spec, role)
    reserved = (INDEX, PARAMETERS_FILE, ADDITIONAL_FILE, PROJECT_FILE)
    if local.path.name in reserved:
        problems.append(f"its manifest is called {local.path.name}, like another file of the package: rename it")
    if _uses(local.spec, PARAMETERS) and local.files.parameters is None:
        problems.append("a task reads parameters.yaml, which is not in workspace/")
    if local.files.parameters is not None:
        try:
            parameters: Any = load_yaml(local.files.parameters, follow_links=True)
            if parameters is not None and not isinstance(parameters, dict):
                problems.append("workspace/parameters.yaml must be a map")
        except InvalidEntityError as error:
            problems += error.problems or [error.message]
    for task in local.spec.tasks.values():
        for volume in task.volumes:
            if volume.offer == ADDITIONAL_FILES:
                place = local.files.additional_files and local.files.additional_files / volume.subpath
                if place is None or not place.exists():
                    problems.append(f"{task.name} reads additional_files/{volume.subpath}, which is not in workspace/")
    if local.spec.project is not None and local.path.is_relative_to(Path(local.spec.project).resolve()):
        problems.append("process.project holds the manifest itself: put the code into a folder of its own")
    if not local.spec.sources and "image_url" not in local.spec.carried:
        problems.append("it names no image, no build context that is there, and no process: project")
    return list(dict.fromkeys(problems))


def _image_file(spec: ContainerSpec) -> Path | None:
    kinds = (SourceKind.ARCHIVE, SourceKind.SIF)
    return next((Path(each.location) for each in spec.sources if each.kind in kinds), None)


def _uses(spec: ContainerSpec, offer: str) -> bool:
    return any(volume.offer == offer for task in spec.tasks.values() for volume in task.volumes)


def _write(
    site: Site, local: LocalContainer, folder: Path
) -> tuple[tuple[PackagedFile, ...], tuple[ImageIdentity, ...]]:
    files = [_copy(local.path, folder / local.path.name)]
    images: tuple[ImageIdentity, ...] = ()
    if local.files.parameters is not None:
        files.append(_copy(local.files.parameters, folder / PARAMETERS_FILE))
    if local.files.additional_files is not None:
        files.append(_pack(site, local.files.additional_files, folder / ADDITIONAL_FILE))
    if local.spec.project is not None:
        project = Path(local.spec.project)
        files.append(_pack(site, project, folder / PROJECT_FILE, IGNORED_IN_SOURCES))
        images = (ImageIdentity(IdentityKind.SOURCE, source_digest(project)),)
    return tuple(files), images


def _copy(source: Path, target: Path) -> PackagedFile:
    shutil.copyfile(source, target)
    return PackagedFile(target.name, target.stat().st_size, file_digest(target))


def _pack(site: Site, source: Path, target: Path, ignored: frozenset[str] = frozenset()) -> PackagedFile:
    step = f"Packing {target.name}"
    site.emit(StepStarted(step))

    told = 0

    def on_bytes(done: int, total: int) -> None:
        nonlocal told
        site.cancel.raise_if_cancelled()
        if done - told >= PROGRESS_BYTES or done == total:
            told = done
            site.emit(Progress(step, done, total))

    packed = pack_tree(source, target, ignored, on_bytes)
    site.emit(StepFinished(step))
    return PackagedFile(target.name, packed.size, packed.sha256, packed.tar_sha256, packed.count, packed.names)


def _replace(target: Path, staged: Path) -> None:
    """Put the new folder in the old one's place; the old one is gone only when the new one stands."""
    old = None
    if target.exists():
        old = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
        target.rename(old)
    try:
        staged.rename(target)
    except BaseException:
        if old is not None:
            old.rename(target)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _is_package(folder: Path) -> bool:
    """Whether a folder is empty or holds a package and nothing else, so that it may be replaced."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return names <= {INDEX, *(entry["name"] for entry in index["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return False
