"""Submit a container: fetch and verify what its owner hosts, check it, and register it through the door out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities import (
    Container,
    ContainerSpec,
    IdentityKind,
    ImageIdentity,
    ImageSource,
    Model,
    Role,
    SourceKind,
    State,
)
from medperf_core.entities.checks import SHA256_HEX
from medperf_core.entities.codec import to_json
from medperf_core.entities.roles import role_of
from medperf_core.errors import InvalidEntityError, TransferError, UsageError, VerificationError
from medperf_core.journeys.containers import image_file_kind, packager_for
from medperf_core.journeys.package import PROJECT_FILE
from medperf_core.plugin.digest import source_digest
from medperf_core.plugin.manifest import load_manifest, load_yaml
from medperf_core.plugin.role_check import check_role
from medperf_core.site.fetch import Fetched, Origin, local_file
from medperf_core.site.site import Site

_PARTS = {
    "mlcube": "manifest",
    "parameters": "parameters file",
    "additional": "archive of additional files",
    "image": "image file",
    "project": "archive of the project",
}


@attrs.frozen(kw_only=True)
class HostedFiles:
    """Where a container's files are hosted, as their owner typed it, each with its SHA-256 if the owner gave one.

    A URL, ``direct:URL``, or a path on this machine.
    """

    mlcube: str
    mlcube_hash: str | None = None
    parameters: str | None = None
    parameters_hash: str | None = None
    additional: str | None = None
    additional_hash: str | None = None
    image: str | None = None
    image_hash: str | None = None
    project: str | None = None
    project_hash: str | None = None


def submit_container(
    site: Site, name: str, files: HostedFiles, *, development: bool = False, file_only: bool = False
) -> Container | Model:
    """Register a container.

    A container with an ``infer`` task is registered as a model that wraps it. The manifest's and the parameters'
    contents are kept on the server; URLs and hashes of all files are in ``metadata.sources``.

    Args:
        name: unique on the server.
        files: what to fetch.
        development: keep it editable; else it is registered for OPERATION, which is final.
        file_only: whether the image file is the image, and a registry that the manifest names is not asked: it may have
            something else under that name, or nothing.

    Raises:
        VerificationError: a file is not what its hash says.
        InvalidEntityError: the container is not complete; all problems are listed.
        DeniedError: the person or a policy said no; nothing was sent.
    """
    return register(site, draft_container(site, name, files, development=development, file_only=file_only))


def register(site: Site, container: Container) -> Container | Model:
    """Register a container that was drafted, unless this user did before; as ``submit_container`` does."""
    draft = _as_registered(container)
    earlier = _registered(site, draft)
    if earlier is not None:
        site.notice(f"{container.name} is registered already, with the same files; nothing was sent.")
        return earlier
    registered = site.gate.create(draft)
    if not isinstance(registered, (Container, Model)):
        raise InvalidEntityError(f"The server answered with a {type(registered).__name__} instead of a container.")
    return registered


def check_acceptable(site: Site, container: Container, before: Mapping[str, str]) -> None:
    """Look whether the server would refuse a draft, as far as what it shows of others tells.

    Nothing new is sent: entities are listed by their name, as submitting does anyway, and compared here.

    Args:
        before: addresses under which it may have been registered before, by those of the draft.

    Raises:
        InvalidEntityError: its name is taken, or there is the same container already.
    """
    draft, moved = _as_registered(container), _as_registered(hosted_at(container, before))
    if _registered(site, draft) is not None or _registered(site, moved) is not None:
        return
    problems = []
    kinds: tuple[type[Container | Model], ...] = (Container, Model) if isinstance(draft, Model) else (Container,)
    if any(True for kind in kinds for _ in site.server.list(kind, name=container.name)):
        problems.append(f"there is something with the name {container.name!r} already")
    problems += [
        f"MLCube {other.id} ({other.name!r}) has the same image, additional files, manifest and parameters"
        for other in site.server.list(Container)
        if other.name != container.name and _unique(other) == _unique(container)
    ]
    if problems:
        raise InvalidEntityError(
            f"The server would refuse {container.name!r}, so nothing was uploaded:",
            problems=problems,
            hint="Choose another name, or change the container.",
        )


def hosted_at(container: Container, addresses: Mapping[str, str]) -> Container:
    """A draft with other addresses of the same files."""
    sources = {
        part: {**each, "url": addresses.get(each["url"], each["url"])} for part, each in container.sources().items()
    }
    additional = container.additional_files_tarball_url
    return attrs.evolve(
        container,
        additional_files_tarball_url=addresses.get(additional, additional),
        metadata={**container.metadata, "sources": sources},
    )


def _as_registered(container: Container) -> Container | Model:
    return Model.wrapping(container) if role_of(container.tasks) is Role.MODEL else container


def _unique(container: Container) -> bytes:
    """What no two containers of a server share, as servers compare it: as JSON, in which 1 is not true."""
    return to_json(
        [
            container.image_hash,
            container.additional_files_tarball_hash,
            container.container_config,
            container.parameters_config,
        ]
    )


def _registered(site: Site, draft: Container | Model) -> Container | Model | None:
    """What this user registered before from the same files: a command that is repeated goes on from there."""
    found: Iterable[Container | Model] = site.server.list(type(draft), mine=True, name=draft.name)
    return next((item for item in found if item.is_valid and _content(item) == _content(draft)), None)


def _content(item: Container | Model) -> tuple[object, ...]:
    container = item.container if isinstance(item, Model) else item
    if container is None:
        return (item.name,)
    return (
        item.name,
        item.state,
        container.container_config,
        container.parameters_config,
        container.image_hash,
        container.additional_files_tarball_hash,
        container.metadata.get("sources"),
    )


def draft_container(
    site: Site, name: str, files: HostedFiles, *, development: bool = False, file_only: bool = False
) -> Container:
    """The container that would be registered, with everything fetched and verified."""
    _check_hashes(files)
    sources: dict[str, dict[str, str]] = {}

    def fetch(part: str, url: str | None, sha256: str | None) -> Fetched | None:
        if url is None:
            return None
        if (path := local_file(url)) is not None:
            site.data_folders.refuse([path], "registered")
        fetched = site.fetch(url, origin=Origin.TYPED, sha256=sha256)
        _check_address(site, fetched)
        sources[part] = {"url": fetched.url, "sha256": fetched.sha256}
        return fetched

    manifest_file = fetch("mlcube", files.mlcube, files.mlcube_hash)
    if manifest_file is None:
        raise UsageError("A container needs a manifest.", hint="Give --mlcube-file.")
    manifest = load_manifest(manifest_file.path, name=manifest_file.url)
    packager = packager_for(site, manifest)
    spec = packager.read(attrs.evolve(manifest, base=None))

    project_url = files.project
    if project_url is None and any(task.process_command for task in spec.tasks.values()):
        project_url = sibling(manifest_file.url, PROJECT_FILE)
    try:
        project = fetch("project", project_url, files.project_hash)
    except TransferError as error:
        if files.project is not None:
            raise
        raise TransferError(
            f"The manifest has a process: section, so {PROJECT_FILE} was looked for beside it: {error.message}",
            hint="If it is hosted elsewhere, give its address: --project-file URL",
        ) from error
    project_tree = _tree(site, project) if project else None
    if project_tree:
        spec = packager.read(attrs.evolve(manifest, base=None, project=project_tree))

    parameters_file = fetch("parameters", files.parameters, files.parameters_hash)
    parameters = _parameters(parameters_file)
    additional = fetch("additional", files.additional, files.additional_hash)
    if additional:
        _tree(site, additional)  # an archive that cannot be unpacked safely is found now, not at a hospital
    image_url = files.image or (None if spec.sources else spec.carried.get("image_url"))
    image_file = fetch("image", image_url, files.image_hash)

    problems = _problems(spec, parameters_file, additional)
    if problems:
        raise InvalidEntityError(f"The container {name!r} cannot be submitted:", problems=problems)
    images = image_identities(site, spec, project_tree, image_file, file_only=file_only)
    return Container(
        name=name,
        container_config=manifest.data,
        parameters_config=parameters,
        image_hash=images[0].digest,
        additional_files_tarball_url=additional.url if additional else "",
        additional_files_tarball_hash=additional.sha256 if additional else "",
        state=State.DEVELOPMENT if development else State.OPERATION,
        metadata={"sources": sources, "images": [str(image) for image in images]},
    )


def _check_hashes(files: HostedFiles) -> None:
    """Raise before anything is fetched for a hash that is none."""
    for name, value in attrs.asdict(files).items():
        if name.endswith("_hash") and value is not None and not SHA256_HEX.fullmatch(value.lower()):
            raise UsageError(
                f"{value!r}, given as hash of the {_PARTS[name.removesuffix('_hash')]}, is not a SHA-256.",
                hint="It has 64 digits 0-9 and a-f, without anything before them.",
            )


def _tree(site: Site, archive: Fetched) -> Path:
    """A fetched archive, unpacked; errors call it by the name that it was given by."""
    if not archive.size:
        raise InvalidEntityError(
            f"{archive.url_redacted} is empty (0 bytes), so it is no archive.", hint="Pack and host it again."
        )
    try:
        return site.cache.tree(archive.sha256)
    except InvalidEntityError as error:
        message = error.message.replace(str(archive.path), archive.url_redacted)
        raise InvalidEntityError(message, problems=error.problems, hint=error.hint) from error


def _check_address(site: Site, fetched: Fetched) -> None:
    """Refuse to register an address that others cannot or must not use."""
    if fetched.url.startswith("file:") and not site.server.trusted_addresses:
        raise UsageError(
            f"{fetched.url_redacted} is a file of this machine, which nobody else can fetch.",
            hint="Host it and give its https address.",
        )
    if site.redact(fetched.url) != fetched.url:
        raise UsageError(
            f"The address {fetched.url_redacted} holds a password, token or signature, which everybody would see.",
            hint="Host the file where it can be fetched without one.",
        )


def sibling(url: str, name: str) -> str:
    """The address of the file ``name`` beside the file at ``url``; a query of the URL is not carried over."""
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rpartition("/")[0] + "/" + name, "", ""))


def _parameters(fetched: Fetched | None) -> dict[str, Any] | None:
    if fetched is None:
        return None
    data = load_yaml(fetched.path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InvalidEntityError(f"The parameters file {fetched.url} must hold a map.")
    return data


def _problems(spec: ContainerSpec, parameters: Fetched | None, additional: Fetched | None) -> list[str]:
    role = role_of(frozenset(spec.tasks))
    problems = check_role(spec, role) if role else [f"its tasks ({', '.join(spec.tasks) or 'none'}) fit no role"]
    offers = {volume.offer for task in spec.tasks.values() for volume in task.volumes}
    if "parameters_file" in offers and parameters is None:
        problems.append("its tasks read a parameters file: give --parameters-file")
    if "additional_files" in offers and additional is None:
        problems.append("its tasks read additional files: give --additional-file")
    return problems


def image_identities(
    site: Site, spec: ContainerSpec, project: Path | None, image_file: Fetched | None, *, file_only: bool = False
) -> tuple[ImageIdentity, ...]:
    """Every identity of the container's image that can be verified here; what other sites will compare.

    Raises:
        InvalidEntityError: none can be had, so that nobody could verify the image.
        VerificationError: the registry that the manifest names has another image than the image file.
    """
    found: list[ImageIdentity] = []
    if project is not None:
        found.append(ImageIdentity(IdentityKind.SOURCE, source_digest(project)))
    if image_file is not None:
        kind = image_file_kind(spec, image_file.path)
        source = ImageSource(kind, str(image_file.path))
        found.append(ImageIdentity(IdentityKind(kind.value), f"sha256:{image_file.sha256}"))
        if site.runner.supports(source):
            found += site.runner.prepare(source).identities
    # the manifest's order decides: a project that an engine can build stands for the image unless the manifest
    # puts its registry first (build_strategy: pull)
    for source in spec.sources:
        if file_only or (source.kind is SourceKind.TREE and source.dockerfile):
            break
        if source.kind is SourceKind.REGISTRY and site.runner.supports(source):
            found += _in_registry(site, source, found)
            break
    unique = tuple(dict.fromkeys(found))
    if not unique:
        raise InvalidEntityError(
            "No identity of the container's image could be found, so no site could verify it.",
            hint="Give --image-file or --project-file; an image of a registry is looked up with --platform docker or "
            "singularity.",
        )
    return unique


def _in_registry(site: Site, source: ImageSource, found: list[ImageIdentity]) -> tuple[ImageIdentity, ...]:
    """What a registry's image is, which must be the same as that of the image file, as far as both tell."""
    there = site.runner.prepare(source).identities
    mine, theirs = ({each for each in side if each.kind is IdentityKind.CONFIG} for side in (found, there))
    if mine and theirs and mine != theirs:
        raise VerificationError(
            f"The image file and {source} are not the same image: {', '.join(map(str, sorted(mine, key=str)))} and "
            f"{', '.join(map(str, sorted(theirs, key=str)))}.",
            hint="Push the image of the file to the registry, or take the name out of the manifest.",
        )
    return there
