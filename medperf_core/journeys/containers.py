"""From what a user names - a server UID, or a path - to a container that is here, verified and ready to run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import yaml

from medperf_core.entities import (
    Container,
    ContainerSpec,
    IdentityKind,
    ImageIdentity,
    ImageSource,
    SourceKind,
)
from medperf_core.entities.roles import TASKS, Role
from medperf_core.errors import (
    CancelledError,
    ExecutionError,
    InvalidEntityError,
    MedperfError,
    NotFoundError,
    UsageError,
    VerificationError,
)
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.plugin.manifest import load_manifest, manifest_from_data
from medperf_core.plugin.packager import LocalFiles, Manifest, Packager
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.plugin.runner import PreparedImage
from medperf_core.site.bundles import LoadedBundle, bundled_images
from medperf_core.site.fetch import Origin
from medperf_core.site.offline_server import OfflineServer
from medperf_core.site.site import Site

LOCAL = "local"
"""What policies call the owner of a container that lies in a folder here."""

SIF_TYPES = frozenset({"SingularityFile"})
"""Values of ``container_type`` whose image file is a Singularity image; other image files are ``docker save`` files."""


@attrs.frozen
class LocalContainer:
    """A container in a folder of this machine, as its packager reads it."""

    path: Path
    manifest: Manifest
    packager: Packager
    spec: ContainerSpec
    files: LocalFiles


@attrs.frozen
class ReadyContainer:
    """A container that can run.

    Attributes:
        ref: what the user called it: a UID or a path.
        name: its own name.
        spec: its description.
        parameters: the parameters file; None if it has none.
        additional_files: folder; None if it has none.
        source: where its image comes from.
        image: the verified image.
        owner: as policies see it; see ``PolicySubject``.
        bundle: that brought it; None for a container of a server or a folder.
    """

    ref: str
    name: str
    spec: ContainerSpec
    parameters: Path | None
    additional_files: Path | None
    source: ImageSource
    image: PreparedImage
    owner: str = LOCAL
    bundle: LoadedBundle | None = None


@attrs.frozen
class Candidate:
    """A way to get an image.

    Attributes:
        source: where it is; for one that has a ``fetch``, an address.
        expected: recorded identities that can be compared on that way.
        fetch: brings its file, which may be large, once it is clear that the runner can use it.
        bundle: that brought its file.
    """

    source: ImageSource
    expected: tuple[ImageIdentity, ...] = ()
    fetch: Callable[[], Path] | None = None
    bundle: LoadedBundle | None = None


def is_uid(ref: str) -> bool:
    """Whether ``ref`` is a server UID: digits only. A folder whose name is digits is written ``./7``."""
    return ref.isascii() and ref.isdigit()


def read_local(site: Site, path: Path) -> LocalContainer:
    """Read a manifest, or the one manifest in a folder.

    Raises:
        NotFoundError: there is no manifest.
        InvalidEntityError: no packager knows it, or it breaks its format's rules.
    """
    manifest_path = _find_manifest(site, path)
    manifest = load_manifest(manifest_path)
    packager = packager_for(site, manifest)
    return LocalContainer(manifest_path, manifest, packager, packager.read(manifest), packager.files(manifest_path))


def _find_manifest(site: Site, path: Path) -> Path:
    if path.is_file():
        return path.resolve()
    names = [name for packager in site.packagers for name in packager.file_names]
    if not path.is_dir():
        raise NotFoundError(f"There is no file or folder {path}.", hint="Give a manifest, its folder, or a server UID.")
    # the folder that holds both mlcube/ and project/ is what people think of as the container
    found = [place / name for place in (path, path / "mlcube") for name in names if (place / name).is_file()]
    if not found:
        raise NotFoundError(f"The folder {path} has no manifest.", hint=f"A manifest is called {' or '.join(names)}.")
    if len(found) > 1:
        raise UsageError(
            f"The folder {path} has more than one manifest: "
            f"{', '.join(str(item.relative_to(path)) for item in found)}.",
            hint="Give the one that you mean.",
        )
    return found[0].resolve()


def packager_for(site: Site, manifest: Manifest) -> Packager:
    fitting = [packager for packager in site.packagers if packager.recognizes(manifest.data)]
    if len(fitting) != 1:
        formats = ", ".join(name for packager in site.packagers for name in packager.file_names)
        reason = "is of no known format" if not fitting else "could be of more than one format"
        raise InvalidEntityError(f"The manifest {manifest.name} {reason}.", hint=f"Known formats: {formats}.")
    return fitting[0]


def resolve(site: Site, ref: str, benchmark: int | None = None) -> ReadyContainer:
    """The container that a UID or a path names, its files fetched and verified and its image prepared.

    Args:
        ref: a UID or a path.
        benchmark: what it is wanted for, for policies.

    Raises:
        DeniedError: a policy says no; nothing was fetched or built.
        MedperfError: it is not there, not whole, or not what was recorded.
    """
    if is_uid(ref):
        return from_server(site, site.server.get(Container, int(ref)), benchmark)
    local = read_local(site, Path(ref))
    for note in local.spec.notes:
        site.notice(f"{local.manifest.name}: {note}", level="warning")
    _permit(site, f"container {ref}", LOCAL, benchmark)
    source, image, _ = _prepare(site, local.spec, ref, _local_sources(site, local.spec))
    return ReadyContainer(
        ref, local.spec.name, local.spec, local.files.parameters, local.files.additional_files, source, image
    )


def require_role(site: Site, ref: str, role: Role) -> None:
    """Refuse a container that cannot play its part, before any image is prepared.

    Raises:
        InvalidEntityError: it lacks a task of the role; says which.
        NotFoundError: it is not there.
    """
    tasks = site.server.get(Container, int(ref)).tasks if is_uid(ref) else read_local(site, Path(ref)).spec.tasks
    missing = [task for task in TASKS[role] if task not in tasks]
    if missing:
        raise InvalidEntityError(
            f"The container {ref} cannot be the {role.value}: it has no task {' or '.join(missing)}.",
            hint=f"It has: {', '.join(sorted(tasks)) or 'none'}.",
        )


def _permit(site: Site, what: str, owner: str, benchmark: int | None, recorded: Iterable[ImageIdentity] = ()) -> None:
    subject = PolicySubject(f"preparing {what}", owner, benchmark, tuple(map(str, recorded)))
    site.permit(Action.PREPARE, subject)


def _local_sources(site: Site, spec: ContainerSpec) -> Iterator[Candidate]:
    for source in spec.sources:
        yield Candidate(source)
    url = spec.carried.get("image_url")
    if isinstance(url, str) and not spec.sources:
        fetched = site.fetch(url, origin=Origin.MANIFEST)
        yield Candidate(ImageSource(image_file_kind(spec, fetched.path), str(fetched.path), name=spec.name))


def image_file_kind(spec: ContainerSpec, path: Path) -> SourceKind:
    """What an image file of this container is: what it says of itself, else what the manifest says."""
    sif = spec.carried.get("container_type") in SIF_TYPES or "singularity.image" in spec.carried
    return SourceKind.SIF if sif or _says_sif(path) else SourceKind.ARCHIVE


def _says_sif(path: Path) -> bool:
    """Whether a file has the mark of the Singularity Image Format (https://github.com/apptainer/sif): a manifest that
    names a project only can still be published with the image that an engine built of it."""
    with path.open("rb") as stream:
        return stream.read(42)[32:] == b"SIF_MAGIC\0"


def from_server(site: Site, container: Container, benchmark: int | None = None) -> ReadyContainer:
    """A registered container: its files fetched by their hashes, its image by a recorded identity."""
    if not container.is_valid:
        raise InvalidEntityError(f"Container {container.uid} ({container.name}) was withdrawn by its owner.")
    owner = _owner_name(site, container)
    _permit(site, f"container {container.uid} ({container.name})", owner, benchmark, container.images())
    project = container.sources().get("project")
    tree = _fetch_tree(site, project["url"], project["sha256"]) if project else None
    manifest = manifest_from_data(container.container_config, name=f"container {container.uid}", project=tree)
    spec = packager_for(site, manifest).read(manifest)
    additional = None
    if container.additional_files_tarball_url:
        additional = _fetch_tree(site, container.additional_files_tarball_url, container.additional_files_tarball_hash)
    sources = _registered_sources(site, container, spec)
    source, image, bundle = _prepare(site, spec, f"container {container.uid}", sources)
    if bundle is None and isinstance(site.server, OfflineServer):  # its files, at least, are those that it names
        bundle, _ = site.server.told(Container, container.uid)
    return ReadyContainer(
        ref=str(container.uid),
        name=container.name,
        spec=spec,
        parameters=write_parameters(site, container.parameters_config),
        additional_files=additional,
        source=source,
        image=image,
        owner=owner,
        bundle=bundle,
    )


def _fetch_tree(site: Site, url: str, sha256: str) -> Path:
    fetched = site.fetch(url, origin=site.server_origin, sha256=sha256)
    return site.cache.tree(fetched.sha256)


def write_parameters(site: Site, parameters: dict[str, Any] | None) -> Path | None:
    """A parameters file with the content that the server keeps; the same content gives the same bytes."""
    if parameters is None:
        return None
    # one key per line with its value on it: what people write, and what simple readers in containers understand
    text = "".join(
        yaml.safe_dump(
            {key: value},
            sort_keys=True,
            allow_unicode=True,
            width=4096,
            default_flow_style=None if isinstance(value, (dict, list)) else False,
        )
        for key, value in sorted(parameters.items())
    )
    path = site.temp / "parameters" / hashlib.sha256(text.encode()).hexdigest() / "parameters.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _owner_name(site: Site, container: Container) -> str:
    """The owner as policies see it: servers show other users by their UIDs only."""
    me = site.server.me()
    return (me.email or me.username) if container.owner == me.id else f"user {container.owner}"


def _registered_sources(site: Site, container: Container, spec: ContainerSpec) -> Iterator[Candidate]:
    """Each way to get the image, with the recorded identities that can be compared on that way.

    An image file that the owner hosts comes first: it is what he tested, and a folder that is built anew, or what a
    registry has today, need not be the same.
    """
    yield from _bundled_sources(site, container)
    recorded = container.images()
    sources = container.sources()
    if "image" in sources:
        expected = tuple(identity for identity in recorded if identity.kind in (IdentityKind.ARCHIVE, IdentityKind.SIF))
        if expected:
            url, sha256 = sources["image"]["url"], sources["image"]["sha256"]
            yield Candidate(
                ImageSource(SourceKind(expected[0].kind.value), url, name=container.name),
                expected,
                lambda: site.fetch(url, origin=site.server_origin, sha256=sha256).path,
            )
    by_kind = {
        SourceKind.TREE: (IdentityKind.SOURCE,),
        SourceKind.REGISTRY: (IdentityKind.MANIFEST, IdentityKind.CONFIG),
        SourceKind.SIF: (IdentityKind.SIF,),
    }
    for source in spec.sources:
        expected = tuple(identity for identity in recorded if identity.kind in by_kind.get(source.kind, ()))
        if expected:
            yield Candidate(source, expected)


def _bundled_sources(site: Site, container: Container) -> Iterator[Candidate]:
    """Image files that loaded bundles brought: the signed index vouches that each is of this container. What is
    recorded of the container is compared too, as far as the file allows it."""
    if not isinstance(site.server, OfflineServer):
        return
    for bundle, image, identity in bundled_images(site.server.bundles, container):
        path = site.cache.file(image.sha256)
        if path is not None:
            source = ImageSource(image.kind, str(path), name=container.name)
            yield Candidate(source, (*container.images(), identity), bundle=bundle)


_NEEDED = (
    "The process runner needs a process: section; a container engine needs an image that is recorded with its "
    "identity. Choose another platform with --platform."
)
_ONLY_SIF = (
    "A Singularity image file runs with --platform singularity only; for other platforms its owner has to offer an "
    "image of a registry, or one that docker save wrote."
)


def _prepare(
    site: Site, spec: ContainerSpec, what: str, candidates: Iterable[Candidate]
) -> tuple[ImageSource, PreparedImage, LoadedBundle | None]:
    """Prepare the image by the first way that the runner supports; also says which bundle brought it.

    A way that cannot be had leads to the next only where recorded identities say that both give the same container;
    an image that is not the recorded one is never passed over for another.
    """
    failures: list[str] = []
    seen: list[str] = []
    for candidate in candidates:
        source, expected = candidate.source, candidate.expected
        seen.append(source.kind.value)
        if not site.runner.supports(source):
            continue
        if failures:
            site.notice(f"{failures[-1]} Another way to get the image is tried.", level="warning")
        step = f"Preparing the image of {spec.name or what}"
        site.emit(StepStarted(step))
        try:
            if candidate.fetch is not None:
                source = attrs.evolve(source, location=str(candidate.fetch()))
            image = site.runner.prepare(source, expected)
        except (VerificationError, CancelledError):
            raise
        except MedperfError as error:
            if not expected:
                raise
            failures.append(str(error))
            continue
        site.emit(StepFinished(step, str(image.identities[0])))
        return source, image, candidate.bundle
    if failures:
        raise ExecutionError(f"No image of {what} can be had. " + " ".join(failures))
    offered = ", ".join(dict.fromkeys(seen)) or "no image at all"
    raise InvalidEntityError(
        f"{what} cannot run on the platform {site.effective.platform}: it offers {offered}.",
        hint=_ONLY_SIF if set(seen) == {SourceKind.SIF.value} else _NEEDED,
    )
