"""Bundles: all that a site without a connection needs to run a benchmark's containers, in one signed file.

Create: what takes part, its files and images, the index, the door, the file. Load: the signature, the index, every
file checked while it is read; then the index is the copy of the server's metadata that ``--offline`` works from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import attrs

from medperf_core.errors import InvalidEntityError, OfflineError, VerificationError
from medperf_core.journeys.bundle_checks import check_maker, check_others, check_server, check_time
from medperf_core.journeys.bundle_files import Files, Participants, collect, participants
from medperf_core.plugin.events import Progress, StepFinished, StepStarted
from medperf_core.site.audit import AuditEntry, Event
from medperf_core.site.bundle_file import (
    BundleReader,
    Head,
    Written,
    earlier_head,
    reading,
    write_bundle,
)
from medperf_core.site.bundle_index import (
    BundleEntry,
    BundleIndex,
    read_index,
    signed_bytes,
    signer,
    write_index,
    write_signature,
)
from medperf_core.site.bundle_part import part_of, unfinished
from medperf_core.site.bundle_room import check_room
from medperf_core.site.bundle_take import kept_bytes, take
from medperf_core.site.bundles import BundleStore, LoadedBundle, server_id
from medperf_core.site.door import Leaving
from medperf_core.site.folders import check_place
from medperf_core.site.keys import KeyStore, SiteKey
from medperf_core.site.offline_server import OfflineServer
from medperf_core.site.site import Site
from medperf_core.site.sizes import readable

WHOLE = "SHA-256 and size are those of the whole file"
"""Note in the audit log."""


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
        OfflineError: what loaded bundles say stands in for the server; only the server itself is asked.
        UsageError: a file of this name is there, or appeared meanwhile.
        DeniedError: the person or a policy said no, or a file lies in a folder of data.
        TransferError: it cannot be written, or there is no room.
        MedperfError: whatever kept a file from being had.
    """
    check_place(output, f"The bundle {output}")
    key = None if unsigned else KeyStore(site.home).read()
    if isinstance(site.server, OfflineServer):
        raise OfflineError(
            "Offline: a bundle is made of what the server itself says, not of other bundles.",
            hint="Pass on the bundle that you have, or make one where there is a connection.",
        )
    chosen = tuple(dict.fromkeys(platforms)) or (site.effective.platform,)
    with unfinished(output) as part:
        taking_part = participants(site, benchmark, tuple(models))
        files = collect(site, taking_part, chosen)
        index = _index(site, taking_part, files, chosen, key)
        head = _head(part_of(output), index, key)
        check_room(output.parent, index.size - os.fstat(part.fileno()).st_size, f"the bundle {output}")
        outcome = _ask(site, output, head, index)
        step = f"Writing {output}"
        site.emit(StepStarted(step))
        try:
            written = _write(site, part, output, head, index.entries, step)
        except BaseException as error:
            site.audit.append(attrs.evolve(outcome, event=Event.FAILED, note=site.door.reason(error)))
            raise
        site.audit.append(
            attrs.evolve(outcome, event=Event.ACKNOWLEDGED, sha256=written.sha256, size=written.size, note=WHOLE)
        )
        site.emit(StepFinished(step))
    return CreatedBundle(output, read_index(head.index, str(output)), written.kept)


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
    return Head(write_signature(key.public, key.sign(signed_bytes(data))) if key else None, data)


def _ask(site: Site, output: Path, head: Head, index: BundleIndex) -> AuditEntry:
    """Through the door; the entry for what comes of it. The log has the index, and each file that it lists."""
    leaving = Leaving(
        action="create bundle",
        target=f"bundle of benchmark {index.benchmark}",
        to=f"the file {output}",
        user=site.server.me().username,
        body=head.index,
        benchmark=index.benchmark,
    )
    sending = attrs.evolve(leaving.entry, approved_by=site.door.ask(leaving))
    files = [
        attrs.evolve(sending, action="put into bundle", target=entry.what, sha256=entry.sha256, size=entry.size)
        for entry in index.entries
    ]
    first, *_ = site.audit.append_all([sending, *files])
    return attrs.evolve(sending, of=first.n, approved_by="")


def _write(site: Site, part: BinaryIO, output: Path, head: Head, entries: Sequence[BundleEntry], step: str) -> Written:
    def on_kept(kept: Sequence[BundleEntry]) -> None:
        size = readable(sum(entry.size for entry in kept))
        site.notice(
            f"Going on with {part_of(output)}: {len(kept)} of {len(entries)} files ({size}) are in it already, whole."
        )

    total = sum(entry.size for entry in entries)
    return write_bundle(part, output, head, entries, _path(site), _progress(site, step, total), on_kept)


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


def load_bundle(site: Site, path: Path) -> LoadedBundle:
    """Take in a bundle for the site's profile. An interrupted run goes on at the byte where it was.

    It takes the place of the bundle that was loaded before of the same maker for the same benchmark.

    Raises:
        VerificationError: it is not signed, or not by a maker whose key the profile trusts, or is not what was signed;
            or it is older than the one that it would replace, or says something else than another maker's.
        InvalidEntityError: it is no bundle, or a damaged one.
        UsageError: it is of another server than the profile's.
        TransferError: there is no room.
    """
    store = BundleStore(site.home)
    with reading(path) as bundle:
        data = bundle.head.index
        maker = check_maker(site, path, bundle.head)
        index = read_index(data, str(path))
        if index.maker != maker:
            raise VerificationError(
                f"The bundle {path} says that {index.maker or 'nobody'} signed it, but {maker or 'nobody'} did.",
                hint="Its signature was exchanged or removed; get it again from its maker.",
            )
        check_server(site, store, path, index)
        older = check_time(site, store, path, index)
        check_others(site, store, path, LoadedBundle(hashlib.sha256(data).hexdigest(), site.profile_name, index))
        _take_in(site, path, bundle, index.entries)
    loaded = store.add(site.profile_name, data, older=older)
    site.forget_bundles()
    return loaded


def _take_in(site: Site, path: Path, bundle: BundleReader, entries: Sequence[BundleEntry]) -> None:
    """All entries, into the cache. Those that it has are passed over: it verifies them itself."""
    site.cache.remove_leftovers()
    missing = [entry for entry in entries if site.cache.file(entry.sha256) is None]
    kept = sum(kept_bytes(site.cache, entry) for entry in missing)
    size = sum(entry.size for entry in missing)
    check_room(site.cache_dir, size - kept, f"the files of {path}")
    step = f"Loading {path}"
    site.emit(StepStarted(step))
    on_bytes, wanted = _progress(site, step, size), {entry.sha256 for entry in missing}
    for entry in bundle.entries(entries):
        site.cancel.raise_if_cancelled()
        if entry.sha256 in wanted:
            take(site.cache, bundle, str(path), entry, on_bytes)
    here = len(entries) - len(missing)
    words = [f"{here} of {len(entries)} files were here already"] if here else []
    words += [f"{readable(kept)} were here of an interrupted run"] if kept else []
    site.emit(StepFinished(step, "; ".join(words)))
