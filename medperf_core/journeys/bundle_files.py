"""What goes into a bundle: the entities of a benchmark, their files, and their images for each platform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from medperf_core.entities import Approval, Benchmark, Container, IdentityKind, ImageSource, Model, SourceKind
from medperf_core.errors import InvalidEntityError, MedperfError, NotFoundError, TransferError
from medperf_core.journeys.containers import ReadyContainer, from_server
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.plugin.server import Party
from medperf_core.site.bundle_index import BundleEntry, BundleImage, needed_files
from medperf_core.site.bundle_room import check_room
from medperf_core.site.fetch import Wanted, local_file
from medperf_core.site.saved_images import SavedImages
from medperf_core.site.sink import writing
from medperf_core.site.site import Site
from medperf_core.site.sizes import readable

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
    own = (found.data_preparation_mlcube, reference.container.uid, found.data_evaluator_mlcube)
    containers = [site.server.get(Container, uid) for uid in dict.fromkeys((*own, *models))]
    for container in containers:
        if not container.is_valid:
            further = container.uid in models and container.uid not in own
            raise InvalidEntityError(
                f"Container {container.uid} ({container.name}) was withdrawn by its owner.",
                hint=f"Make the bundle without --model {container.uid}: where it is loaded it replaces the older one, "
                "and the container can no longer be run there."
                if further
                else "Sites that loaded it can forget it: medperf bundle remove NAME",
            )
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
    needed = list(needed_files(taking_part.benchmark, taking_part.containers))
    site.data_folders.refuse(_local(taking_part, [url for _, url, _ in needed]), "put into a bundle")
    wanted = [Wanted(url, sha256) for _, url, sha256 in needed]
    for (what, _, _), fetched in zip(needed, site.fetch_all(wanted, origin=site.server_origin), strict=True):
        _add(entries, fetched.sha256, fetched.size, what)
    for platform in platforms:
        with site.on_platform(platform) as other:
            for container in taking_part.containers:
                for image in _images(other, container, taking_part.benchmark.uid):
                    path = site.cache.file(image.sha256)
                    if path is None:
                        raise MedperfError(f"The image {image.sha256} vanished from the cache.", hint="Try again.")
                    kind = "Docker image" if image.kind is SourceKind.ARCHIVE else "Singularity image"
                    _add(entries, image.sha256, path.stat().st_size, f"{kind} of {_named(container)}")
                    images[container.uid, image.sha256] = image
    return Files(tuple(entries[name] for name in sorted(entries)), tuple(images[key] for key in sorted(images)))


def _named(container: Container) -> str:
    return f"container {container.uid} ({container.name})"


def _local(taking_part: Participants, urls: Iterable[str]) -> Iterator[Path]:
    """All files of this machine that the addresses of files and images lead to."""
    images = [container.sources().get("image", {}).get("url") for container in taking_part.containers]
    for url in (*urls, *images):
        with suppress(TransferError):  # no address: nothing is fetched from there
            if url and (path := local_file(url)):
                yield path


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
    saved = SavedImages(site.cache_dir, site.cache)
    platform, identities = site.effective.platform, ready.image.identities
    if (found := saved.find(platform, identities)) is not None:
        return found
    what = f"the image of {ready.name or ready.ref}"
    if ready.image.size is not None:  # about what the file will have: layers are saved as they are unpacked
        check_room(site.cache_dir, ready.image.size, f"saving {what}")
    step = f"Saving {what}"
    site.emit(StepStarted(step))
    with site.work_folder("bundle") as work, writing(what):
        path = site.runner.save(ready.image, work)
        kind = SourceKind.SIF if path.suffix == ".sif" else SourceKind.ARCHIVE
        sha256, size = file_digest(path), path.stat().st_size
        temporary = site.cache.temporary()
        try:
            path.rename(temporary)
            site.cache.add(sha256, temporary)
        finally:
            temporary.unlink(missing_ok=True)
        saved.add(platform, identities, sha256, kind)
    site.emit(StepFinished(step, readable(size)))
    return sha256, kind
