"""Submit a container: fetch and verify what its owner hosts, check it, and register it through the door out."""

from __future__ import annotations

from collections.abc import Iterable
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
from medperf_core.entities.roles import role_of
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.containers import image_file_kind, packager_for
from medperf_core.journeys.package import PROJECT_FILE
from medperf_core.plugin.digest import source_digest
from medperf_core.plugin.manifest import load_manifest, load_yaml
from medperf_core.plugin.role_check import check_role
from medperf_core.site.fetch import Fetched, Origin
from medperf_core.site.site import Site


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


def submit_container(site: Site, name: str, files: HostedFiles, *, development: bool = False) -> Container | Model:
    """Register a container.

    A container with an ``infer`` task is registered as a model that wraps it. The manifest's and the parameters'
    contents are kept on the server; URLs and hashes of all files are in ``metadata.sources``.

    Args:
        name: unique on the server.
        files: what to fetch.
        development: keep it editable; else it is registered for OPERATION, which is final.

    Raises:
        VerificationError: a file is not what its hash says.
        InvalidEntityError: the container is not complete; all problems are listed.
        DeniedError: the person or a policy said no; nothing was sent.
    """
    container = draft_container(site, name, files, development=development)
    draft = Model.wrapping(container) if role_of(container.tasks) is Role.MODEL else container
    earlier = _registered(site, draft)
    if earlier is not None:
        site.notice(f"{name} is registered already, with the same files; nothing was sent.")
        return earlier
    registered = site.gate.create(draft)
    if not isinstance(registered, (Container, Model)):
        raise InvalidEntityError(f"The server answered with a {type(registered).__name__} instead of a container.")
    return registered


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


def draft_container(site: Site, name: str, files: HostedFiles, *, development: bool = False) -> Container:
    """The container that would be registered, with everything fetched and verified."""
    sources: dict[str, dict[str, str]] = {}

    def fetch(part: str, url: str | None, sha256: str | None) -> Fetched | None:
        if url is None:
            return None
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
    project = fetch("project", project_url, files.project_hash)
    project_tree = site.cache.tree(project.sha256) if project else None
    if project_tree:
        spec = packager.read(attrs.evolve(manifest, base=None, project=project_tree))

    parameters_file = fetch("parameters", files.parameters, files.parameters_hash)
    parameters = _parameters(parameters_file)
    additional = fetch("additional", files.additional, files.additional_hash)
    if additional:
        site.cache.tree(additional.sha256)  # an archive that cannot be unpacked safely is found now, not at a hospital
    image_url = files.image or (None if spec.sources else spec.carried.get("image_url"))
    image_file = fetch("image", image_url, files.image_hash)

    problems = _problems(spec, parameters_file, additional)
    if problems:
        raise InvalidEntityError(f"The container {name!r} cannot be submitted:", problems=problems)
    images = image_identities(site, spec, project_tree, image_file)
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
    site: Site, spec: ContainerSpec, project: Path | None, image_file: Fetched | None
) -> tuple[ImageIdentity, ...]:
    """Every identity of the container's image that can be verified here; what other sites will compare.

    Raises:
        InvalidEntityError: none can be had, so that nobody could verify the image.
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
        if source.kind is SourceKind.TREE and source.dockerfile:
            break
        if source.kind is SourceKind.REGISTRY and site.runner.supports(source):
            found += site.runner.prepare(source).identities
            break
    unique = tuple(dict.fromkeys(found))
    if not unique:
        raise InvalidEntityError(
            "No identity of the container's image could be found, so no site could verify it.",
            hint="Give --image-file or --project-file; an image of a registry is looked up with --platform docker or "
            "singularity.",
        )
    return unique
