"""Bundles: all that a site without a connection needs to run a benchmark's containers, in one signed file.

Create: what takes part, its files and images, the index, the door, the file. Load: the signature, the index, every
file checked while it is read; then the index is the copy of the server's metadata that ``--offline`` works from.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from medperf_core.errors import InvalidEntityError, TransferError, UsageError, VerificationError
from medperf_core.journeys.bundle_files import Files, Participants, collect, participants
from medperf_core.plugin.events import Progress, StepFinished, StepStarted
from medperf_core.plugin.isolation import UNSIGNED
from medperf_core.site.audit import AuditEntry, Event
from medperf_core.site.bundle_file import Head, earlier_head, part_of, reading, unfinished, write_bundle
from medperf_core.site.bundle_index import BundleEntry, BundleIndex, read_index, signer, write_index, write_signature
from medperf_core.site.bundles import BundleStore, LoadedBundle, server_id
from medperf_core.site.door import Leaving
from medperf_core.site.folders import check_place
from medperf_core.site.keys import KeyStore, SiteKey
from medperf_core.site.sink import writing
from medperf_core.site.site import Site

MARGIN = 64 << 20
"""Bytes that must be left on a disk."""


@attrs.frozen
class CreatedBundle:
    """A bundle that was made.

    Attributes:
        path: of the file.
        kept: bytes of files that were there from an interrupted run.
    """

    path: Path
    index: BundleIndex
    kept: int


def create_bundle(
    site: Site,
    *,
    benchmark: int,
    output: Path,
    platforms: Sequence[str] = (),
    models: Iterable[int] = (),
    unsigned: bool = False,
) -> CreatedBundle:
    """Make a bundle. An interrupted run leaves ``OUTPUT.part``; the same call goes on from there.

    Args:
        benchmark: its UID.
        output: the file; it must not be there yet.
        platforms: for which it has images; empty for the site's.
        models: UIDs of the containers of further models than the reference model.
        unsigned: do without a key.

    Raises:
        NotFoundError: this site has no key, or something is not there.
        DeniedError: the person or a policy said no, or a file lies in a folder of data.
        TransferError: it cannot be written, or there is no room.
        MedperfError: whatever kept a file from being had.
    """
    check_place(output, f"The bundle {output}")
    key = None if unsigned else KeyStore(site.home).read()
    chosen = tuple(dict.fromkeys(platforms)) or (site.effective.platform,)
    with unfinished(output) as part:
        taking_part = participants(site, benchmark, tuple(models))
        files = collect(site, taking_part, chosen)
        index = _index(site, taking_part, files, chosen, key)
        head = _head(part_of(output), index, key)
        _check_room(output.parent, index.size - part_of(output).stat().st_size, f"the bundle {output}")
        entry = _ask(site, output, head, benchmark)
        step = f"writing {output}"
        site.emit(StepStarted(step))
        try:
            kept = write_bundle(part, output, head, index.entries, _path(site), _progress(site, step, index.size))
        except BaseException as error:
            site.audit.append(attrs.evolve(entry, event=Event.FAILED, note=site.door.reason(error)))
            raise
        site.audit.append(attrs.evolve(entry, event=Event.ACKNOWLEDGED))
        site.emit(StepFinished(step))
    return CreatedBundle(output, read_index(head.index, str(output)), kept)


def _index(
    site: Site, taking_part: Participants, files: Files, platforms: Sequence[str], key: SiteKey | None
) -> BundleIndex:
    return BundleIndex(
        benchmark=taking_part.benchmark.uid,
        server=server_id(site.server.address),
        maker=key.fingerprint if key else "",
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        platforms=list(platforms),
        benchmarks=[taking_part.benchmark],
        models=list(taking_part.models),
        containers=list(taking_part.containers),
        entries=list(files.entries),
        images=list(files.images),
    )


def _head(part: Path, index: BundleIndex, key: SiteKey | None) -> Head:
    """How the bundle begins: as it began when it was interrupted, unless something is different now."""
    earlier = earlier_head(part)
    if earlier is not None:
        try:
            told = read_index(earlier.index, str(part))
            by = signer(earlier.signature, earlier.index, str(part)) if earlier.signature is not None else ""
            if by == index.maker and attrs.evolve(index, created_at=told.created_at) == told:
                return earlier
        except (InvalidEntityError, VerificationError):
            pass  # what is there is of no use
    data = write_index(index)
    return Head(write_signature(key.public, key.sign(data)) if key else None, data)


def _ask(site: Site, output: Path, head: Head, benchmark: int) -> AuditEntry:
    """Through the door; the entry for what comes of it."""
    leaving = Leaving(
        action="create bundle",
        target=f"bundle of benchmark {benchmark}",
        to=f"the file {output}",
        user=site.server.me().username,
        body=head.index,
        benchmark=benchmark,
    )
    approved_by = site.door.ask(leaving)
    sending = attrs.evolve(leaving.entry, approved_by=approved_by)
    return attrs.evolve(sending, of=site.audit.append(sending).n, approved_by="")


def _path(site: Site) -> Callable[[BundleEntry], Path]:
    def path(entry: BundleEntry) -> Path:
        found = site.cache.file(entry.sha256)
        if found is None:
            raise VerificationError(
                f"The {entry.what} was changed in the cache, or removed.", hint="Run the command again; it goes on."
            )
        return found

    return path


def _progress(site: Site, step: str, total: int) -> Callable[[int], None]:
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        site.cancel.raise_if_cancelled()
        done += count
        site.emit(Progress(step, done, total))

    return on_bytes


def _check_room(place: Path, size: int, what: str) -> None:
    free = shutil.disk_usage(place).free
    if size + MARGIN > free:
        raise TransferError(
            f"There is no room for {what}: it needs {size} bytes in {place}, where {free} are free.",
            hint="Free some, or use another disk. Nothing was written.",
        )


def load_bundle(site: Site, path: Path) -> LoadedBundle:
    """Take in a bundle for the site's profile. An interrupted run goes on with the files that are not here yet.

    Raises:
        VerificationError: it is not signed, or not by a maker whose key the profile trusts, or is not what was signed.
        InvalidEntityError: it is no bundle, or a damaged one.
        UsageError: it is of another server than the profile's.
        TransferError: there is no room.
    """
    with reading(path) as bundle:
        data = bundle.head.index
        maker = _maker(site, path, bundle.head)
        index = read_index(data, str(path))
        if index.maker != maker:
            raise VerificationError(
                f"The bundle {path} says that {index.maker or 'nobody'} signed it, but {maker or 'nobody'} did.",
                hint="Its signature was exchanged or removed; get it again from its maker.",
            )
        _check_server(site, path, index)
        site.cache.remove_leftovers()
        missing = {entry.sha256 for entry in index.entries if site.cache.file(entry.sha256) is None}
        size = sum(entry.size for entry in index.entries if entry.sha256 in missing)
        _check_room(site.cache_dir, size, f"the files of {path}")
        step = f"loading {path}"
        site.emit(StepStarted(step))
        on_bytes = _progress(site, step, index.size)
        for entry, content in bundle.entries(index.entries):
            _take(site, path, entry, content, on_bytes, keep=entry.sha256 in missing)
        site.emit(StepFinished(step))
    loaded = BundleStore(site.home).add(site.profile_name, data)
    site.__dict__.pop("bundles", None)
    return loaded


def _maker(site: Site, path: Path, head: Head) -> str:
    """The fingerprint of a trusted maker; "" for an unsigned bundle that was allowed."""
    if head.signature is None:
        if UNSIGNED not in {waiver.name for waiver in site.effective.waivers}:
            raise VerificationError(
                f"The bundle {path} is not signed, so nobody knows who made it. Nothing of it was kept.",
                hint=f"If you know where it comes from, add --allow {UNSIGNED}.",
            )
        return ""
    found = signer(head.signature, head.index, str(path))
    if found not in site.profile.trusted_keys:
        known = ",".join((*site.profile.trusted_keys, found))
        raise VerificationError(
            f"The bundle {path} is signed by {found}, a key that the profile {site.profile_name!r} does not trust. "
            "Nothing of it was kept.",
            hint="Ask its maker on another way, such as by telephone, for the fingerprint that medperf site key prints "
            f"there. If it is this one: medperf profile set trusted_keys={known}",
        )
    return found


def _check_server(site: Site, path: Path, index: BundleIndex) -> None:
    own = server_id(site.profile.server) if site.profile.server else None
    others = {bundle.index.server for bundle in site.bundles}
    if own not in (None, index.server) or others - {index.server}:
        raise UsageError(
            f"The bundle {path} is of the server {index.server}, but the profile {site.profile_name!r} is of "
            f"{own or ', '.join(sorted(others))}: the same UIDs mean other things there.",
            hint="Load it into a profile of its own: medperf profile create NAME, then medperf --profile NAME bundle "
            "load FILE",
        )


def _take(
    site: Site, path: Path, entry: BundleEntry, content: Iterator[bytes], on_bytes: Callable[[int], None], *, keep: bool
) -> None:
    """Check the bytes of an entry, and keep them if they are not here yet."""
    digest = hashlib.sha256()
    temporary = site.cache.temporary()
    try:
        with writing(str(path)):
            if keep:
                with temporary.open("xb") as stream:
                    for data in content:
                        digest.update(data)
                        stream.write(data)
                        on_bytes(len(data))
            else:
                for data in content:
                    digest.update(data)
                    on_bytes(len(data))
        if digest.hexdigest() != entry.sha256:
            raise VerificationError(
                f"The {entry.what} in the bundle {path} is not what its maker signed: expected SHA-256 {entry.sha256}, "
                f"found {digest.hexdigest()}. It was not kept.",
                hint="The bundle was changed or damaged on its way; get it again.",
            )
        if keep:
            with writing(str(path)):
                site.cache.add(entry.sha256, temporary)
    finally:
        temporary.unlink(missing_ok=True)
