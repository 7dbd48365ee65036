"""Publish a container: package it, upload what is not there yet, read it back, and register its addresses and hashes.

Object names carry the SHA-256 of the content, so nothing is ever overwritten and a repeated command goes on where it
was interrupted. What can be known beforehand to go wrong ends it before anything is uploaded.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities import Container, ImageSource, Model, Role, SourceKind
from medperf_core.errors import (
    AccessRefusedError,
    TransferError,
    UsageError,
    VerificationError,
)
from medperf_core.journeys.containers import LocalContainer, read_local, resolve
from medperf_core.journeys.package import ADDITIONAL_FILE, PARAMETERS_FILE, PROJECT_FILE, Package, package
from medperf_core.journeys.publish_place import Place, place_for, scheme_of
from medperf_core.journeys.submit import HostedFiles, check_acceptable, draft_container, hosted_at, register
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.plugin.storage import PutRequest, Storage, Stored
from medperf_core.site.readback import read_back
from medperf_core.site.several import several
from medperf_core.site.site import Site
from medperf_core.site.uploads import Outgoing

IMAGE_FILES = {SourceKind.ARCHIVE: "image.tar", SourceKind.SIF: "image.sif"}
"""What image files are called where they are hosted, as runners call those that they write."""
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MANIFEST = "manifest.yaml"


@attrs.frozen
class Hosted:
    """A file of a published container.

    Attributes:
        name: where it is hosted.
        made_from: the file, folder or image of this machine that it was made from.
        path: the file itself, which may be a temporary one.
        size: bytes.
        sha256: hexadecimal.
        holds: what is in it, if it is an archive: the number of ``files`` and the ``names`` of the first ones.
        target: where it is uploaded to.
        public: its ``https`` address, under which everybody may read it if the bucket's owner lets them; "" if the
            store has none.
        url: the address that is registered: ``target`` or ``public``; "" for a dry run.
        there: whether it was there before.
    """

    name: str
    made_from: str
    path: Path
    size: int
    sha256: str
    holds: Mapping[str, Any] = attrs.field(factory=dict)
    target: str = ""
    public: str = ""
    url: str = ""
    there: bool = False


@attrs.frozen
class Publication:
    """What was published.

    Attributes:
        files: all files.
        role: what the container is for.
        draft: what was, or would be, registered.
        public: whether everybody may read the files without an account; None for a dry run, which cannot tell.
        registered: what the server has now; None for a dry run.
    """

    files: tuple[Hosted, ...]
    role: Role
    draft: Container
    public: bool | None = None
    registered: Container | Model | None = None


def publish(
    site: Site,
    path: Path,
    to: str,
    *,
    name: str | None = None,
    role: Role | None = None,
    image: bool = False,
    dry_run: bool = False,
    development: bool = False,
    show: Callable[[tuple[Hosted, ...]], None] | None = None,
) -> Publication:
    """Publish a local container.

    Args:
        path: its manifest or the folder of it.
        to: address of a folder in a store that takes uploads: ``gs://bucket/prefix``, ``s3://...``, ``file:///...``.
        name: its name on the server; None for the manifest's, in small letters with dashes.
        role: what it must be able to do.
        image: save and upload the container image too.
        dry_run: only say what would be done. The container is packed into the cache and its image prepared, and store
            and server are asked what they have.
        development: keep it editable.
        show: is given the files before anything is uploaded.

    Raises:
        UsageError: files cannot be published to that place, or the name is none.
        DeniedError: the person or a policy said no, or a folder, also the one to upload to, holds data.
        InvalidEntityError: the container is not complete, or the server would refuse it; nothing was uploaded.
        TransferError: a file cannot be uploaded; the same command goes on from there.
        VerificationError: what arrived is something else.
    """
    local = read_local(site, path)
    name = _name(local, name)
    place = place_for(site, local, to, file_digest(local.path), _manifest_name(local))
    site.data_folders.refuse(_sources(local, image=image), "uploaded")
    with site.work_folder("publish") as work:
        made = package(site, path, role, work / "package")
        if made.image_file and not image and _is_only_image(local):
            raise UsageError(
                f"The image of {local.path} is the file {made.image_file}, which no site would get.",
                hint="Add --image to upload it too.",
            )
        packaged = _packaged(local, made)
        file_only = False
        if image:
            saved, file_only = _saved(site, local, work)
            packaged.append(saved)
        files = _looked_up(site, place, packaged)
        files = tuple(attrs.evolve(each, path=_kept(site, each)) for each in files)
    if show is not None:
        show(files)
    draft = draft_container(site, name, _hosted(files), development=development, file_only=file_only)
    check_acceptable(site, draft, {each.target: each.public or each.target for each in files})
    if dry_run:
        return Publication(files, made.role, draft)
    _upload(site, place, files)
    public = _verify(site, place, files)
    files = tuple(attrs.evolve(each, url=_registered_url(place.store, each, public=public)) for each in files)
    draft = hosted_at(draft, {each.target: each.url for each in files})
    return Publication(files, made.role, draft, public, register(site, draft))


def _sources(local: LocalContainer, *, image: bool) -> Iterator[Path]:
    """All files and folders of this machine that something of what is uploaded is made from."""
    found = [local.path, local.files.parameters, local.files.additional_files, local.spec.project]
    if image:  # a build copies what lies beside its build file
        found += [each.location for each in local.spec.sources if each.kind is not SourceKind.REGISTRY]
    return (Path(each) for each in found if each)


def _name(local: LocalContainer, given: str | None) -> str:
    if given is not None:
        if not given.strip():
            raise UsageError("The name of the container is empty.", hint="Give another --name, or leave it out.")
        return given
    found = re.sub(r"[^a-z0-9]+", "-", local.spec.name.lower()).strip("-")
    if not found:
        raise UsageError(f"The manifest {local.path} names no container.", hint="Give one with --name.")
    return found[:64]


def _manifest_name(local: LocalContainer) -> str:
    """What the manifest is called where it is hosted: its own name, if that can stand in every address."""
    return local.path.name if _PLAIN.fullmatch(local.path.name) else _MANIFEST


def _is_only_image(local: LocalContainer) -> bool:
    """Whether nothing but an image file can be run of what is registered."""
    elsewhere = any(each.kind is SourceKind.REGISTRY for each in local.spec.sources)
    return local.spec.project is None and not elsewhere


def _packaged(local: LocalContainer, made: Package) -> list[Hosted]:
    """The files of the package, the manifest first, not yet with an address."""
    origins = {
        PARAMETERS_FILE: local.files.parameters,
        ADDITIONAL_FILE: local.files.additional_files,
        PROJECT_FILE: local.spec.project,
        local.path.name: local.path,
    }
    return [
        Hosted(
            _manifest_name(local) if each is made.files[0] else each.name,
            str(origins[each.name]),
            made.folder / each.name,
            each.size,
            each.sha256,
            {"files": each.count, "names": list(each.names)} if each.tar_sha256 else {},
        )
        for each in made.files
    ]


def _saved(site: Site, local: LocalContainer, work: Path) -> tuple[Hosted, bool]:
    """The container's image as a file, and whether it is of no registry. An image file of the manifest stays as it is:
    what an engine writes of it may be of use to that engine only."""
    ready = resolve(site, str(local.path))
    source = ready.source
    step = f"Saving the image of {ready.name or local.path}"
    site.emit(StepStarted(step))
    if source.kind in IMAGE_FILES and Path(source.location).is_file():
        saved = work / IMAGE_FILES[source.kind]
        shutil.copyfile(source.location, saved)
    else:
        saved = site.runner.save(ready.image, work)
    site.emit(StepFinished(step))
    return (
        Hosted(saved.name, _in_words(source), saved, saved.stat().st_size, file_digest(saved)),
        source.kind is not SourceKind.REGISTRY,
    )


def _in_words(source: ImageSource) -> str:
    kinds = {SourceKind.TREE: "the image built from", SourceKind.REGISTRY: "the registry's image"}
    return f"{kinds.get(source.kind, 'the image file')} {source.location}"


def _looked_up(site: Site, place: Place, files: list[Hosted]) -> tuple[Hosted, ...]:
    files = [attrs.evolve(each, target=place.target(each.sha256, each.name)) for each in files]
    there = several((partial(_there, place.store, each) for each in files), site.context.cancel.child())
    return tuple(
        attrs.evolve(each, public=place.store.public_url(each.target) or "", there=found)
        for each, found in zip(files, there, strict=True)
    )


def _there(store: Storage, file: Hosted) -> bool:
    """Whether it is in the store already; what is there under this name and is not it is an error."""
    stored: Stored | None = store.look(file.target)
    if stored is not None and stored.size != file.size:
        raise VerificationError(
            f"{store.redact(file.target)} holds {stored.size} bytes instead of {file.size}; nothing is overwritten.",
            hint="Remove it there, or publish under another prefix.",
        )
    return stored is not None


def _kept(site: Site, file: Hosted) -> Path:
    """Put a file into the cache, where registering it then finds it. A rename: a link would count as a change."""
    temporary = site.cache.temporary()
    try:
        shutil.move(file.path, temporary)
        return site.cache.add(file.sha256, temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _upload(site: Site, place: Place, files: tuple[Hosted, ...]) -> None:
    missing = [
        Outgoing(
            each.name,
            each.made_from,
            PutRequest(each.target, each.path, each.size, each.sha256, absent=True),
            each.holds,
        )
        for each in files
        if not each.there
    ]
    if missing:
        site.uploads.upload(place.store, place.shown, missing)


def _verify(site: Site, place: Place, files: tuple[Hosted, ...]) -> bool:
    """Read everything back as a stranger would; with the own account where a stranger may not. Whether one may."""
    public, anonymous = True, place.store.anonymous()
    try:
        for each in files:
            what = f"Reading back {each.name}"
            site.emit(StepStarted(what))
            public = public and _read_publicly(site, place, anonymous, each)
            if not public:
                read_back(place.store, each.target, each.size, each.sha256, site.context)
            site.emit(StepFinished(what))
    except TransferError as error:
        raise TransferError(
            f"All files were uploaded, but could not be read back, so nothing was registered: {error.message}",
            hint=f"{error.hint or ''} The same command goes on from here: what is there is not uploaded again.".strip(),
        ) from error
    if public and any(place.store.public_url(each.target) is None for each in files):
        site.notice(
            f"Everybody who reaches this server can read the files without an account. They have no https addresses, "
            f"so the {place.scheme}: addresses are registered, and sites that run this container need the settings of "
            "this server."
        )
    return public


def _read_publicly(site: Site, place: Place, anonymous: Storage | None, file: Hosted) -> bool:
    """Whether a stranger may read it: by its https address or, where there is none, from the same store without an
    account. Only a refusal says that he may not; every other failure is one to be mended."""
    url = place.store.public_url(file.target)
    reader = anonymous if url is None else site.storage(scheme_of(url))
    if reader is None:
        if place.scheme != "file":
            _warn_private(site, place.scheme, "This store cannot tell whether everybody may read what was uploaded.")
        return False
    try:
        read_back(reader, url or file.target, file.size, file.sha256, site.context)
    except AccessRefusedError as error:
        why = f"Not everybody may read what was uploaded ({error.message.rstrip('.')})."
        _warn_private(site, place.scheme, why)
        return False
    return True


def _warn_private(site: Site, scheme: str, why: str) -> None:
    site.notice(
        f"{why} So the {scheme}: addresses are registered, and sites that run this container need an account there.",
        level="warning",
    )


def _registered_url(store: Storage, file: Hosted, *, public: bool) -> str:
    return (public and store.public_url(file.target)) or file.target


def _hosted(files: tuple[Hosted, ...]) -> HostedFiles:
    manifest, *others = files
    places = {PARAMETERS_FILE: "parameters", ADDITIONAL_FILE: "additional", PROJECT_FILE: "project"}
    places |= dict.fromkeys(IMAGE_FILES.values(), "image")
    given = {"mlcube": manifest.target, "mlcube_hash": manifest.sha256}
    for each in others:
        part = places[each.name]
        given |= {part: each.target, f"{part}_hash": each.sha256}
    return HostedFiles(**given)
