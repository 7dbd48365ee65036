"""The file of a bundle: a plain tar, written in one order, continued where it was interrupted, and read once."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import attrs

from medperf_core.errors import InvalidEntityError, NotFoundError, TransferError, VerificationError
from medperf_core.site.bundle_index import (
    BYTES_LIMIT,
    ENTRIES_LIMIT,
    INDEX_LIMIT,
    INDEX_NAME,
    SIGNATURE_LIMIT,
    SIGNATURE_NAME,
    BundleEntry,
)
from medperf_core.site.bundle_part import give_name
from medperf_core.site.tarstream import BLOCK, CHUNK, BadArchive, Member, TarStream, UnpackLimits

_LIMITS = UnpackLimits(entries=ENTRIES_LIMIT + 2, bytes=2 * BYTES_LIMIT, ratio=2.0)
_FIRST = tuple(name.encode() + b"\0" for name in (SIGNATURE_NAME, INDEX_NAME))
Counter = Callable[[int], None]


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


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


def earlier_head(part: Path) -> Head | None:
    """How an unfinished bundle begins; None if that is not whole."""
    try:
        with reading(part) as bundle:
            return bundle.head
    except (InvalidEntityError, NotFoundError):
        return None


@attrs.frozen
class Written:
    """A bundle that was written.

    Attributes:
        sha256, size: of the whole file, in hexadecimal digits and bytes.
        kept: bytes of entries that were there already.
    """

    sha256: str
    size: int
    kept: int


def write_bundle(
    stream: BinaryIO,
    output: Path,
    head: Head,
    entries: Sequence[BundleEntry],
    paths: Callable[[BundleEntry], Path],
    on_bytes: Counter,
    on_kept: Callable[[Sequence[BundleEntry]], None],
) -> Written:
    """Write what of a bundle is not there yet, and give it its name.

    Args:
        stream: the part file, see ``unfinished``; what is in it and is right is kept.
        paths: the file of an entry.
        on_bytes: is told the bytes of entries as they are done.
        on_kept: is told, before any is written, which entries are there, if the file was begun before.

    Raises:
        UsageError: a file of this name appeared meanwhile; the part file is kept.
        VerificationError: a file is not what the index says.
        TransferError: it cannot be written.
    """
    try:
        begun = os.fstat(stream.fileno()).st_size > 0
        writer = _Writer(stream)
        kept = entries[: writer.keep(head, entries, on_bytes)]
        if begun:
            on_kept(kept)
        for entry in entries[len(kept) :]:
            _write_entry(writer, entry, paths(entry), on_bytes)
        writer.write(bytes(2 * BLOCK))
        stream.flush()
        os.fsync(stream.fileno())
        give_name(output)
    except OSError as error:
        raise TransferError(
            f"The bundle {output} cannot be written: {error.strerror or error}.",
            hint="Free some room and give the same command again; it goes on from there.",
        ) from error
    return Written(writer.digest.hexdigest(), stream.tell(), sum(entry.size for entry in kept))


class _Writer:
    """Writes to the part file, and hashes the whole of it.

    Attributes:
        stream: the file.
        digest: of all that is before the place of the stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.stream.write(data)
        self.digest.update(data)

    def keep(self, head: Head, entries: Sequence[BundleEntry], on_bytes: Counter) -> int:
        """How many entries are there, whole; the stream is cut after them."""
        start = head.tar()
        self.stream.seek(0)
        if self.stream.read(len(start)) != start:
            self.stream.seek(0)
            self.stream.truncate()
            self.write(start)
            return 0
        self.digest.update(start)
        at, number = len(start), 0
        for entry in entries:
            digest = self.digest.copy()
            if not self._has(entry, digest):
                break
            self.digest = digest
            on_bytes(entry.size)
            at, number = self.stream.tell(), number + 1
        self.stream.seek(at)
        self.stream.truncate()
        return number

    def _has(self, entry: BundleEntry, digest: _Digest) -> bool:
        """Whether the entry is next in the stream; all of it is added to the digest."""
        header, own, left = _header(entry.sha256, entry.size), hashlib.sha256(), entry.size
        if self.stream.read(len(header)) != header:
            return False
        digest.update(header)
        while left and (data := self.stream.read(min(left, CHUNK))):
            own.update(data)
            digest.update(data)
            left -= len(data)
        padding = bytes(-entry.size % BLOCK)
        digest.update(padding)
        return own.hexdigest() == entry.sha256 and self.stream.read(len(padding)) == padding


def _write_entry(writer: _Writer, entry: BundleEntry, path: Path, on_bytes: Counter) -> None:
    digest, size = hashlib.sha256(), 0
    writer.write(_header(entry.sha256, entry.size))
    with path.open("rb") as source:
        while size < entry.size and (data := source.read(min(CHUNK, entry.size - size))):
            digest.update(data)
            writer.write(data)
            size += len(data)
            on_bytes(len(data))
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise VerificationError(
            f"{entry.what} changed while it was read.", hint="Look for what changes files in the cache; try again."
        )
    writer.write(bytes(-entry.size % BLOCK))


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

    def entries(self, listed: Sequence[BundleEntry]) -> Iterator[BundleEntry]:
        """Each entry of the index. Its bytes can be had before the next one is asked for; what of them is not read is
        passed over, without reading it from the disk.

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
            yield entry
        if (member := self._next()) is not None:
            raise self._other(f"it has {member.name[:80]!r}, which its index does not list")

    def content(self) -> Iterator[bytes]:
        """The bytes of the present entry, from where its reading is."""
        while data := self._read(CHUNK):
            yield data

    def skip(self, size: int) -> None:
        """Pass over the next bytes of the present entry."""
        try:
            self._stream.skip(size)
        except BadArchive as error:
            raise self._broken(str(error)) from error

    def again(self) -> None:
        """Go back to the first byte of the present entry."""
        self._stream.again()

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
        return b"".join(self.content())

    def _broken(self, why: str) -> InvalidEntityError:
        return InvalidEntityError(
            f"The bundle {self._path} cannot be used: it {why}.",
            hint="It may have been damaged on its way; get it again.",
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
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise NotFoundError(f"The bundle {path} cannot be read: it is no file.")
        with path.open("rb") as raw:
            start = raw.read(32)
    except OSError as error:
        raise NotFoundError(f"The bundle {path} cannot be read: {error.strerror}.") from error
    if not start.startswith(_FIRST):  # also what is compressed, which a bundle never is
        raise InvalidEntityError(f"{path} is not a bundle.", hint="Make one: medperf bundle create")
    with TarStream(path, _LIMITS) as stream:
        yield BundleReader(path, stream)
