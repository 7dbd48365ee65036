"""Publish a container: package it, upload what is not there yet, read it back, and register its addresses and hashes.

Object names carry the SHA-256 of the content, so nothing is ever overwritten and a repeated command goes on where it
was interrupted.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from medperf_core.entities import Container, Model, Role, SourceKind
from medperf_core.errors import OfflineError, TransferError, UsageError, VerificationError
from medperf_core.journeys.containers import LocalContainer, read_local, resolve
from medperf_core.journeys.package import ADDITIONAL_FILE, PARAMETERS_FILE, PROJECT_FILE, Package, package
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.plugin.storage import PutRequest, Storage, Stored
from medperf_core.site.readback import read_back
from medperf_core.site.site import Site

IMAGE_STEM = "image"


@attrs.frozen
class Hosted:
    """A file of a published container.

    Attributes:
        name: in the package.
        path: on this machine.
        size: bytes.
        sha256: hexadecimal.
        target: where it is uploaded to.
        url: the address that is registered; ``target``, or its ``https`` address where everybody may read it.
        there: whether it was there before.
    """

    name: str
    path: Path
    size: int
    sha256: str
    target: str
    url: str = ""
    there: bool = False


@attrs.frozen
class Publication:
    """What was published.

    Attributes:
        files: all files.
        public: whether everybody may read them without an account.
        registered: what the server has now; None for a dry run.
    """

    files: tuple[Hosted, ...]
    public: bool
    registered: Container | Model | None


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
        dry_run: only say what would be done; what is there already is looked up.
        development: keep it editable.
        show: is given the files before anything is uploaded.

    Raises:
        DeniedError: the person or a policy said no, or the folder holds data.
        TransferError: a file cannot be uploaded; the same command goes on from there.
        VerificationError: what arrived is something else.
    """
    local = read_local(site, path)
    name = name or _name(local)
    store = site.storage(_scheme(to))
    if site.effective.offline and not to.startswith("file:"):
        raise OfflineError("Offline: publishing needs a connection.", hint="Run it without --offline.")
    site.data_folders.refuse(_sources(local, image=image), "uploaded")
    with site.work_folder("publish") as work:
        made = package(site, path, role, work / "package")
        files = _files(site, local, made, to, work, image=image)
        files = tuple(attrs.evolve(each, there=_there(store, each)) for each in files)
        if show is not None:
            show(files)
        if dry_run:
            return Publication(files, False, None)
        _upload(site, store, to, files)
        public = _verify(site, store, files)
        files = tuple(
            attrs.evolve(each, url=(public and store.public_url(each.target)) or each.target) for each in files
        )
        _keep(site, files)
        registered = submit_container(site, name, _hosted(files), development=development)
    return Publication(files, public, registered)


def _sources(local: LocalContainer, *, image: bool) -> Iterator[Path]:
    """All files and folders of this machine that something of what is uploaded is made from."""
    found = [local.path, local.files.parameters, local.files.additional_files, local.spec.project]
    if image:  # a build copies what lies beside its build file
        found += [each.location for each in local.spec.sources if each.kind is not SourceKind.REGISTRY]
    return (Path(each) for each in found if each)


def _name(local: LocalContainer) -> str:
    found = re.sub(r"[^a-z0-9]+", "-", local.spec.name.lower()).strip("-")
    if not found:
        raise UsageError(f"The manifest {local.path} names no container.", hint="Give one with --name.")
    return found[:64]


def _scheme(to: str) -> str:
    scheme, colon, _ = to.partition(":")
    if any(ord(char) < 33 or ord(char) == 127 for char in to) or "\\" in to:
        raise UsageError(
            f"{to!r} has a blank, a backslash or a control character, and so would the addresses to register.",
            hint="Choose another prefix; in a file: address, write %20 for a blank.",
        )
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise UsageError(
            f"{to!r} is not an address of a store.", hint="Write gs://BUCKET/PREFIX, s3://... or file:///..."
        )
    return scheme


def _files(site: Site, local: LocalContainer, made: Package, to: str, work: Path, *, image: bool) -> tuple[Hosted, ...]:
    found = [(item.name, made.folder / item.name, item.size, item.sha256) for item in made.files]
    if image:
        ready = resolve(site, str(local.path))
        step = f"Saving the image of {ready.name or local.path}"
        site.emit(StepStarted(step))
        saved = site.runner.save(ready.image, work)
        site.emit(StepFinished(step))
        found.append((saved.name, saved, saved.stat().st_size, file_digest(saved)))
    return tuple(
        Hosted(name, path, size, sha256, f"{to.rstrip('/')}/{sha256}/{name}") for name, path, size, sha256 in found
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


def _upload(site: Site, store: Storage, to: str, files: tuple[Hosted, ...]) -> None:
    missing = [PutRequest(each.target, each.path, each.size, each.sha256) for each in files if not each.there]
    if missing:
        site.uploads.upload(store, store.redact(to), missing)


def _verify(site: Site, store: Storage, files: tuple[Hosted, ...]) -> bool:
    """Read everything back as a stranger would; with the own account where a stranger may not. Whether one may."""
    public = True
    for each in files:
        what = f"Reading back {each.name}"
        site.emit(StepStarted(what))
        public = public and _read_publicly(site, store, each)
        if not public:
            read_back(store, each.target, each.size, each.sha256, site.context)
        site.emit(StepFinished(what))
    return public


def _read_publicly(site: Site, store: Storage, file: Hosted) -> bool:
    url = store.public_url(file.target)
    if url is None:
        return False
    try:
        read_back(site.storage(_scheme(url)), url, file.size, file.sha256, site.context)
    except TransferError as error:
        site.notice(
            f"{store.redact(file.target)} could not be read without an account ({error.message.rstrip('.')}): the "
            f"{_scheme(file.target)}: addresses are registered, and sites that run this container need an account "
            "there.",
            level="warning",
        )
        return False
    return True


def _keep(site: Site, files: tuple[Hosted, ...]) -> None:
    """Put the files into the cache: registering them need not fetch what was just read back."""
    for each in files:
        temporary = site.cache.temporary()
        try:
            try:
                os.link(each.path, temporary)
            except OSError:
                shutil.copyfile(each.path, temporary)
            site.cache.add(each.sha256, temporary)
        finally:
            temporary.unlink(missing_ok=True)


def _hosted(files: tuple[Hosted, ...]) -> HostedFiles:
    by_name = {each.name: each for each in files}
    places = {PARAMETERS_FILE: "parameters", ADDITIONAL_FILE: "additional", PROJECT_FILE: "project"}
    given = {"mlcube": files[0].url, "mlcube_hash": files[0].sha256}
    for name, each in by_name.items():
        part = places.get(name) or ("image" if name.startswith(f"{IMAGE_STEM}.") else None)
        if part is not None:
            given |= {part: each.url, f"{part}_hash": each.sha256}
    return HostedFiles(**given)
