"""What goes into a bundle: the entities of a benchmark, their files, and their images for each platform."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import attrs

from medperf_core.entities import Approval, Benchmark, Container, IdentityKind, ImageSource, Model, SourceKind
from medperf_core.entities.codec import to_json
from medperf_core.errors import InvalidEntityError, MedperfError, NotFoundError
from medperf_core.journeys.containers import ReadyContainer, from_server
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.plugin.server import Party
from medperf_core.site.atomic import write_atomically
from medperf_core.site.bundle_index import BundleEntry, BundleImage
from medperf_core.site.site import Site

SAVED = "saved"
"""Folder in the cache: which image was saved to which file, so that none is saved twice."""
_KINDS = {SourceKind.ARCHIVE: IdentityKind.ARCHIVE, SourceKind.SIF: IdentityKind.SIF}


@attrs.frozen
class Participants:
    """The entities of a bundle, as the server shows them to everybody."""

    benchmark: Benchmark
    models: tuple[Model, ...]
    containers: tuple[Container, ...]


@attrs.frozen
class Files:
    """Files that are in the cache.

    Attributes:
        entries: in the order of their SHA-256.
        images: which of them are images.
    """

    entries: tuple[BundleEntry, ...]
    images: tuple[BundleImage, ...]


def participants(site: Site, benchmark: int, models: Iterable[int]) -> Participants:
    """What takes part.

    Args:
        models: UIDs of containers of further models.

    Raises:
        InvalidEntityError: one of them is no container, or was withdrawn.
        NotFoundError: one is not there.
    """
    found = site.server.get(Benchmark, benchmark)
    # lists of people's e-mail addresses, which the server shows to their owner only
    public = attrs.evolve(found, dataset_auto_approval_allow_list=[], model_auto_approval_allow_list=[])
    reference = site.server.get(Model, found.reference_model)
    if reference.container is None:
        raise InvalidEntityError(f"The reference model {reference.uid} of benchmark {benchmark} is not a container.")
    wrapped = {reference.uid: reference}
    uids = [found.data_preparation_mlcube, reference.container.uid, found.data_evaluator_mlcube, *models]
    containers = [site.server.get(Container, uid) for uid in dict.fromkeys(uids)]
    for container in containers:
        if not container.is_valid:
            raise InvalidEntityError(f"Container {container.uid} ({container.name}) was withdrawn by its owner.")
        if container.uid in models:
            with suppress(NotFoundError):
                model = site.server.model_of(container.uid)
                wrapped[model.uid] = model
            _say_if_not_approved(site, benchmark, container, wrapped)
    return Participants(public, tuple(wrapped.values()), tuple(containers))


def _say_if_not_approved(site: Site, benchmark: int, container: Container, models: dict[int, Model]) -> None:
    uids = {uid for uid, model in models.items() if model.container is not None and model.container.id == container.id}
    known = site.server.associations(Party.MODEL, benchmark=benchmark)
    approved = {each.model for each in known if each.approval_status is Approval.APPROVED}
    if container.owner != site.server.me().id and not uids & approved:
        site.notice(
            f"Container {container.uid} ({container.name}) is not known to be approved for benchmark {benchmark}."
        )


def collect(site: Site, taking_part: Participants, platforms: Sequence[str]) -> Files:
    """Fetch all files, and prepare and save all images, into the cache.

    Raises:
        DeniedError: one lies in a folder of data, or a policy says no.
        MedperfError: one cannot be had.
    """
    entries: dict[str, BundleEntry] = {}
    images: dict[tuple[int, str], BundleImage] = {}
    urls = list(_urls(taking_part))
    site.data_folders.refuse((path for _, url, _ in urls if (path := _local(url))), "put into a bundle")
    for what, url, sha256 in urls:
        fetched = site.fetch(url, origin=site.server_origin, sha256=sha256)
        _add(entries, fetched.sha256, fetched.size, what)
    for platform in platforms:
        with site.on_platform(platform) as other:
            for container in taking_part.containers:
                for image in _images(other, container, taking_part.benchmark.uid):
                    path = site.cache.file(image.sha256)
                    if path is None:
                        raise MedperfError(f"The image {image.sha256} vanished from the cache.", hint="Try again.")
                    kind = "image" if image.kind is SourceKind.ARCHIVE else "Singularity image"
                    _add(entries, image.sha256, path.stat().st_size, f"{kind} of {_named(container)}")
                    images[container.uid, image.sha256] = image
    return Files(tuple(entries[name] for name in sorted(entries)), tuple(images[key] for key in sorted(images)))


def _named(container: Container) -> str:
    return f"container {container.uid} ({container.name})"


def _urls(taking_part: Participants) -> Iterator[tuple[str, str, str]]:
    """What each file is, its address, and its SHA-256; images are collected by themselves."""
    benchmark = taking_part.benchmark
    yield "demo dataset", benchmark.demo_dataset_tarball_url, benchmark.demo_dataset_tarball_hash
    words = {"mlcube": "manifest", "parameters": "parameters", "project": "project"}
    for container in taking_part.containers:
        for part, source in sorted(container.sources().items()):
            if part in words:
                yield f"{words[part]} of {_named(container)}", source["url"], source["sha256"]
        if container.additional_files_tarball_url:
            yield (
                f"additional files of {_named(container)}",
                container.additional_files_tarball_url,
                container.additional_files_tarball_hash,
            )


def _local(url: str) -> Path | None:
    """The path that an address names on this machine; None for others."""
    address = url.strip().removeprefix("direct:")
    return Path(unquote(urlsplit(address).path)) if address.lower().startswith("file:") else None


def _add(entries: dict[str, BundleEntry], sha256: str, size: int, what: str) -> None:
    if sha256 in entries:
        what = f"{entries[sha256].what}, {what}" if what not in entries[sha256].what else entries[sha256].what
    entries[sha256] = BundleEntry(sha256=sha256, size=size, what=what[:500])


def _images(site: Site, container: Container, benchmark: int) -> Iterator[BundleImage]:
    """The image file of a container for the site's platform, in the cache; none where it has no such files."""
    ready = from_server(site, container, benchmark)
    kinds = [kind for kind in _KINDS if site.runner.supports(ImageSource(kind, "/image"))]
    if not kinds:
        return
    identities = sorted(map(str, ready.image.identities))
    if ready.source.kind in kinds:
        sha256 = Path(ready.source.location).name  # as the cache names it
        kind = ready.source.kind
    else:
        sha256, kind = _saved(site, ready)
    yield BundleImage(container=container.uid, kind=kind, sha256=sha256, identities=identities)


def _saved(site: Site, ready: ReadyContainer) -> tuple[str, SourceKind]:
    """The SHA-256 and kind of an image that was saved, now or before."""
    key = hashlib.sha256(to_json([site.effective.platform, sorted(map(str, ready.image.identities))])).hexdigest()
    note = site.cache_dir / SAVED / f"{key}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, MedperfError):
        found = json.loads(note.read_bytes())
        if site.cache.file(found["sha256"]) is not None:
            return str(found["sha256"]), SourceKind(found["kind"])
    step = f"Saving the image of {ready.name or ready.ref}"
    site.emit(StepStarted(step))
    with site.work_folder("bundle") as work:
        path = site.runner.save(ready.image, work)
        kind = SourceKind.SIF if path.suffix == ".sif" else SourceKind.ARCHIVE
        sha256 = file_digest(path)
        temporary = site.cache.temporary()
        path.rename(temporary)
        site.cache.add(sha256, temporary)
    note.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(note, json.dumps({"sha256": sha256, "kind": kind.value}))
    site.emit(StepFinished(step))
    return sha256, kind
