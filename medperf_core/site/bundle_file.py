"""The file of a bundle: a plain tar, written in one order, continued where it was interrupted, and read once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import attrs

from medperf_core.errors import InvalidEntityError, NotFoundError, TransferError, UsageError, VerificationError
from medperf_core.site.atomic import sync_folder
from medperf_core.site.bundle_index import (
    BYTES_LIMIT,
    ENTRIES_LIMIT,
    INDEX_LIMIT,
    INDEX_NAME,
    SIGNATURE_LIMIT,
    SIGNATURE_NAME,
    BundleEntry,
)
from medperf_core.site.tarstream import BLOCK, CHUNK, BadArchive, Member, TarStream, UnpackLimits

_LIMITS = UnpackLimits(entries=ENTRIES_LIMIT + 2, bytes=2 * BYTES_LIMIT, ratio=2.0)
_FIRST = tuple(name.encode() + b"\0" for name in (SIGNATURE_NAME, INDEX_NAME))
Counter = Callable[[int], None]


@attrs.frozen
class Head:
    """How a bundle begins.

    Attributes:
        signature: content of its member; None if it is not signed.
        index: the exact bytes.
    """

    signature: bytes | None
    index: bytes

    def tar(self) -> bytes:
        """Both as members of a tar."""
        signed = b"" if self.signature is None else _member(SIGNATURE_NAME, self.signature)
        return signed + _member(INDEX_NAME, self.index)


def part_of(output: Path) -> Path:
    """Where a bundle is while it is not finished."""
    return output.with_name(f"{output.name}.part")


@contextmanager
def unfinished(output: Path) -> Iterator[BinaryIO]:
    """The part file of a bundle, for one process at a time; made if it is not there.

    Raises:
        UsageError: the bundle is there already, or another command makes it.
        TransferError: it cannot be written.
    """
    if os.path.lexists(output):
        raise UsageError(f"{output} is there already; nothing was overwritten.", hint="Name another file.")
    try:
        descriptor = os.open(part_of(output), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TransferError(f"{output} cannot be written: {error.strerror}.", hint="Name another place.") from error
    with os.fdopen(descriptor, "r+b") as stream:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"Another command is writing {output}.", hint="Wait for it, or name another file."
            ) from None
        try:
            yield stream
        finally:
            if os.fstat(descriptor).st_size == 0:  # nothing to go on with
                part_of(output).unlink(missing_ok=True)


def earlier_head(part: Path) -> Head | None:
    """How an unfinished bundle begins; None if that is not whole."""
    try:
        with reading(part) as bundle:
            return bundle.head
    except (InvalidEntityError, NotFoundError):
        return None


def write_bundle(
    stream: BinaryIO,
    output: Path,
    head: Head,
    entries: Sequence[BundleEntry],
    paths: Callable[[BundleEntry], Path],
    on_bytes: Counter,
) -> int:
    """Write what of a bundle is not there yet, and give it its name.

    Args:
        stream: the part file, see ``unfinished``; what is in it and is right is kept.
        paths: the file of an entry.
        on_bytes: is told the bytes of entries as they are done.

    Returns:
        How many bytes were there already.

    Raises:
        VerificationError: a file is not what the index says.
        TransferError: it cannot be written.
    """
    try:
        kept = _keep(stream, head, entries, on_bytes)
        for entry in entries[kept:]:
            _write_entry(stream, entry, paths(entry), on_bytes)
        stream.write(bytes(2 * BLOCK))
        stream.flush()
        os.fsync(stream.fileno())
        part_of(output).rename(output)
        sync_folder(output.parent)
    except OSError as error:
        raise TransferError(
            f"The bundle {output} cannot be written: {error.strerror or error}.",
            hint="Free some room and give the same command again; it goes on from there.",
        ) from error
    return sum(entry.size for entry in entries[:kept])


def _keep(stream: BinaryIO, head: Head, entries: Sequence[BundleEntry], on_bytes: Counter) -> int:
    """How many entries are there, whole; the stream is cut after them."""
    start = head.tar()
    stream.seek(0)
    if stream.read(len(start)) != start:
        stream.seek(0)
        stream.truncate()
        stream.write(start)
        return 0
    at = len(start)
    for number, entry in enumerate(entries):
        header = _header(entry.sha256, entry.size)
        whole = stream.read(len(header)) == header and _digest(stream, entry.size, lambda size: None) == entry.sha256
        if not whole or len(stream.read(-entry.size % BLOCK)) != -entry.size % BLOCK:
            stream.seek(at)
            stream.truncate()
            return number
        on_bytes(entry.size)
        at += len(header) + entry.size + -entry.size % BLOCK
    stream.seek(at)
    stream.truncate()
    return len(entries)


def _digest(stream: BinaryIO, size: int, on_bytes: Counter) -> str:
    digest = hashlib.sha256()
    while size and (data := stream.read(min(size, CHUNK))):
        digest.update(data)
        size -= len(data)
        on_bytes(len(data))
    return digest.hexdigest()


def _write_entry(stream: BinaryIO, entry: BundleEntry, path: Path, on_bytes: Counter) -> None:
    digest, size = hashlib.sha256(), 0
    stream.write(_header(entry.sha256, entry.size))
    with path.open("rb") as source:
        while size < entry.size and (data := source.read(min(CHUNK, entry.size - size))):
            digest.update(data)
            stream.write(data)
            size += len(data)
            on_bytes(len(data))
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise VerificationError(
            f"{entry.what} changed while it was read.", hint="Look for what changes files in the cache; try again."
        )
    stream.write(bytes(-entry.size % BLOCK))


def _header(name: str, size: int) -> bytes:
    """The same bytes for the same name and size, whoever makes them and whenever."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def _member(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + bytes(-len(data) % BLOCK)


class BundleReader:
    """A bundle that is read from its start to its end; see ``reading``. Its methods raise InvalidEntityError."""

    def __init__(self, path: Path, stream: TarStream) -> None:
        self._path, self._stream = path, stream
        self._members = stream.members()
        first = self._next()
        signature = None
        if first is not None and first.name == SIGNATURE_NAME:
            signature = self._document(first, SIGNATURE_LIMIT)
            first = self._next()
        if first is None or first.name != INDEX_NAME:
            raise self._broken("does not begin with an index")
        self.head = Head(signature, self._document(first, INDEX_LIMIT))

    def entries(self, listed: Sequence[BundleEntry]) -> Iterator[tuple[BundleEntry, Iterator[bytes]]]:
        """Each entry of the index with its bytes, which are to be read before the next one is asked for.

        Raises:
            VerificationError: another member is there, one is missing, or its size is another. The bytes are checked
                by whoever reads them: ``sha256`` of the entry.
        """
        for entry in listed:
            member = self._next()
            if member is None:
                raise self._other(f"its {entry.what} is missing")
            if (member.name, member.size) != (entry.sha256, entry.size) or member.kind != tarfile.REGTYPE:
                raise self._other(f"it has {member.name[:80]!r} where its index says {entry.what}")
            yield entry, self._bytes()
        if (member := self._next()) is not None:
            raise self._other(f"it has {member.name[:80]!r}, which its index does not list")

    def _bytes(self) -> Iterator[bytes]:
        while data := self._read(CHUNK):
            yield data

    def _next(self) -> Member | None:
        try:
            return next(self._members, None)
        except BadArchive as error:
            raise self._broken(str(error)) from error

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except BadArchive as error:
            raise self._broken(str(error)) from error

    def _document(self, member: Member, limit: int) -> bytes:
        if member.kind != tarfile.REGTYPE or member.size > limit:
            raise self._broken(f"has {member.name!r} of a size or kind that no real one has")
        return b"".join(self._bytes())

    def _broken(self, why: str) -> InvalidEntityError:
        return InvalidEntityError(
            f"The bundle {self._path} cannot be used: it {why}.", hint="It may have been cut short; get it again."
        )

    def _other(self, why: str) -> VerificationError:
        return VerificationError(
            f"The bundle {self._path} is not what its index says: {why}.", hint="Get it again from its maker."
        )


@contextmanager
def reading(path: Path) -> Iterator[BundleReader]:
    """Open a bundle that nobody trusts yet.

    Raises:
        NotFoundError: it is not there or cannot be read.
        InvalidEntityError: it is no bundle.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(32)
    except OSError as error:
        raise NotFoundError(f"The bundle {path} cannot be read: {error.strerror}.") from error
    if not start.startswith(_FIRST):  # also what is compressed, which a bundle never is
        raise InvalidEntityError(f"{path} is not a bundle.", hint="Make one: medperf bundle create")
    with TarStream(path, _LIMITS) as stream:
        yield BundleReader(path, stream)
