"""An entry of a bundle on its way into the cache. Interrupted at any byte, it goes on from there, also days later.

What came is kept as other interrupted files are (see ``partials``). It is never believed: it is hashed again, in place
of the same bytes of the bundle, and only the SHA-256 of the whole gives it its name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from medperf_core.errors import TransferError, VerificationError
from medperf_core.site.bundle_file import BundleReader
from medperf_core.site.bundle_index import BundleEntry
from medperf_core.site.cache import Cache
from medperf_core.site.partials import Partial, PartialRecord
from medperf_core.site.sink import WORTH_KEEPING, writing
from medperf_core.site.tarstream import CHUNK

ADDRESS = "bundle"
"""Stands for the address of what comes from bundles: which one, is of no matter for the bytes."""
Counter = Callable[[int], None]


def kept_bytes(cache: Cache, entry: BundleEntry) -> int:
    """How much of an entry an interrupted load left."""
    return min(cache.partials.kept_bytes(ADDRESS, entry.sha256), entry.size)


def take(cache: Cache, bundle: BundleReader, name: str, entry: BundleEntry, on_bytes: Counter) -> None:
    """Put the bundle's present entry into the cache.

    Args:
        name: of the bundle, for messages.
        on_bytes: is told the bytes as they are hashed, those that were here already too; an error of it interrupts.

    Raises:
        VerificationError: its bytes are not what the index says; nothing of them is kept.
        InvalidEntityError: the bundle ends within it.
        TransferError: it cannot be written, such as on a full disk.
    """
    with writing(name), cache.partials.taken(ADDRESS, entry.sha256) as partial:
        if partial is not None:
            _take(cache, bundle, name, entry, on_bytes, partial.path, partial)
            return
        path = cache.temporary()  # another process is loading the same
        try:
            _take(cache, bundle, name, entry, on_bytes, path, None)
        finally:
            path.unlink(missing_ok=True)


def _take(
    cache: Cache,
    bundle: BundleReader,
    name: str,
    entry: BundleEntry,
    on_bytes: Counter,
    path: Path,
    partial: Partial | None,
) -> None:
    try:
        found, resumed = _write(bundle, name, entry, on_bytes, path, partial)
        if found != entry.sha256 and resumed:  # perhaps what was kept is to blame
            bundle.again()
            if partial is not None:
                partial.discard()
            found, _ = _write(bundle, name, entry, lambda size: on_bytes(0), path, partial)
        if found != entry.sha256:
            raise VerificationError(
                f"The {entry.what} in the bundle {name} is not what its maker signed: expected SHA-256 {entry.sha256}, "
                f"found {found}. It was not kept.",
                hint="The bundle was changed or damaged on its way; get it again.",
            )
        with writing(name):
            cache.add(entry.sha256, path)
    except (VerificationError, TransferError):
        if partial is not None:
            partial.discard()  # wrong, or on a disk that is full
        raise
    except BaseException:
        if partial is not None and kept_bytes(cache, entry) < WORTH_KEEPING:
            partial.discard()
        raise
    if partial is not None:
        partial.forget()


def _write(
    bundle: BundleReader, name: str, entry: BundleEntry, on_bytes: Counter, path: Path, partial: Partial | None
) -> tuple[str, bool]:
    """The SHA-256 of what is at the path now, and whether some of it was there before."""
    digest = hashlib.sha256()
    kept = partial.kept() is not None if partial is not None else False
    with writing(name):
        if partial is not None:
            partial.note(PartialRecord(entry.sha256, ADDRESS, entry.size or None))
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if partial else os.O_EXCL)
        with os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0) as stream:
            done = 0
            while kept and done < entry.size and (data := stream.read(min(CHUNK, entry.size - done))):
                digest.update(data)
                done += len(data)
                on_bytes(len(data))
            bundle.skip(done)
            stream.truncate(done)
            for data in bundle.content():
                digest.update(data)
                left = memoryview(data)
                while left:
                    left = left[stream.write(left) :]
                on_bytes(len(data))
            os.fsync(stream.fileno())
    return digest.hexdigest(), done > 0
