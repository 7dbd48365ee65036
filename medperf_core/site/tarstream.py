"""Reads the members of a tar that nobody trusts yet, with every allocation and every byte bounded.

``tarfile.TarFile`` is made for friendly archives: it takes the sizes of extended headers and sparse maps as they come,
ends silently at a header that it cannot read, and knows no limits. So only its parser of single header blocks
(``TarInfo.frombuf``) is used; what stands around it here reads ustar, PAX and GNU archives strictly.
"""

from __future__ import annotations

import bz2
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import attrs

CHUNK = 1 << 20
BLOCK = tarfile.BLOCKSIZE
HEADER_BYTES = 1 << 20  # of one extended header; a real one needs a few hundred
EXTENDED_IN_A_ROW = 8
XZ_MEMORY = 512 << 20  # what "xz -9" needs, eight times over
RATIO_FLOOR = 256 << 20  # below this many bytes, no compression ratio does harm
EXTENDED = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


@attrs.frozen
class UnpackLimits:
    """What an archive may hold.

    Attributes:
        entries: files, folders and links.
        bytes: of the tar inside, so of all files together and their headers.
        ratio: how many times larger than the archive the tar may be, once it is larger than 256 MiB. Medical images
            with much background compress 20 to 100 times; what goes beyond 200 is made to fill a disk.
    """

    entries: int = 1_000_000
    bytes: int = 1 << 40
    ratio: float = 200.0


class BadArchive(Exception):
    """What is wrong with the archive, as the end of a sentence about it."""


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@attrs.frozen
class Member:
    """An entry of an archive, as it stands there and unchecked.

    Attributes:
        name: its path.
        kind: one of the type bytes of ``tarfile``; every kind of plain file is ``REGTYPE``.
        mode: its permissions.
        size: bytes of content; 0 unless it is a plain file.
        link: the target of a symbolic or hard link; "" otherwise.
    """

    name: str
    kind: bytes
    mode: int
    size: int
    link: str


class TarStream:
    """The members of one archive in order: tar, or tar compressed by gzip, bzip2 or xz, told apart by content.

    Used as a context manager; all methods raise ``BadArchive``.
    """

    def __init__(self, archive: Path, limits: UnpackLimits) -> None:
        self._limits = limits
        self._file: BinaryIO = archive.open("rb")
        self._packed_size = max(os.fstat(self._file.fileno()).st_size, 1)
        self._source = _decompressed(self._file)
        self._total = 0
        self._size = 0  # of the current member's content
        self._left = 0  # bytes of it that were not read yet
        self._padding = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def members(self) -> Iterator[Member]:
        """Each member; what of its content was not read when the next is asked for is passed over."""
        last = "its start"
        while (member := self._next(last)) is not None:
            self._size, self._left, self._padding = member.size, member.size, -member.size % BLOCK
            yield member
            last = f"{member.name!r}"
            self.skip(self._left)
            self._exactly(self._padding, last)
        while self._take(CHUNK):
            pass  # only the last byte tells whether the compressed stream is whole

    def read(self, size: int) -> bytes:
        """The next bytes of the current member's content; b"" after its end."""
        if not self._left:
            return b""
        data = self._take(min(size, self._left))
        if not data:
            raise BadArchive(f"is cut short: {self._left} bytes of its last file are missing")
        self._left -= len(data)
        return data

    def skip(self, size: int) -> None:
        """Pass over the next bytes of the current member's content; what is not compressed is not even read."""
        size = min(size, self._left)
        if self._source is not self._file:
            while size and (data := self.read(min(size, CHUNK))):
                size -= len(data)
            return
        if self._file.tell() + size > os.fstat(self._file.fileno()).st_size:
            raise BadArchive(f"is cut short: bytes of its last file are missing, which has {self._size}")
        self._file.seek(size, os.SEEK_CUR)
        self._count(size)
        self._left -= size

    def again(self) -> None:
        """Go back to the first byte of the current member's content, where the archive is not compressed."""
        if self._source is not self._file:
            raise BadArchive("is compressed, so it can be read once only")
        done = self._size - self._left
        self._file.seek(-done, os.SEEK_CUR)
        self._total -= done
        self._left = self._size

    def _next(self, last: str) -> Member | None:
        extended: dict[str, str] = {}
        for _ in range(EXTENDED_IN_A_ROW):
            block = self._exactly(BLOCK, last)
            if not any(block):
                return None
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except (tarfile.HeaderError, ValueError) as error:
                raise BadArchive(f"is no tar, or damaged: {_plain(error)} after {last}") from error
            if info.type not in EXTENDED:
                return _member(info, extended)
            if not 0 <= info.size <= HEADER_BYTES:
                break
            content = self._exactly(info.size, last)
            self._exactly(-info.size % BLOCK, last)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = _text(content.rstrip(b"\0"))
            elif info.type == tarfile.GNUTYPE_LONGLINK:
                extended["linkpath"] = _text(content.rstrip(b"\0"))
            else:
                records = _pax_records(content, last)
                if info.type == tarfile.XGLTYPE and not {"path", "linkpath", "size"}.isdisjoint(records):
                    raise BadArchive(f"has a global header after {last} that renames or resizes all files")
                extended.update(records)
        raise BadArchive(f"has extended headers after {last} of a size that no real file needs")

    def _exactly(self, size: int, last: str) -> bytes:
        pieces = []
        while size and (data := self._take(size)):
            pieces.append(data)
            size -= len(data)
        if size:
            raise BadArchive(f"is cut short after {last}")
        return b"".join(pieces)

    def _take(self, size: int) -> bytes:
        try:
            data = self._source.read(size)
        except (EOFError, OSError) as error:
            raise BadArchive(f"is damaged or cut short: {_plain(error)}") from error
        self._count(len(data))
        return data

    def _count(self, size: int) -> None:
        self._total += size
        if self._total > self._limits.bytes:
            raise BadArchive(f"unpacks to more than {self._limits.bytes} bytes")
        if self._total > max(RATIO_FLOOR, self._limits.ratio * self._packed_size):
            raise BadArchive(
                f"unpacks to more than {self._limits.ratio:g} times its own size, as only archives do "
                "that are made to fill a disk"
            )


def _member(info: tarfile.TarInfo, extended: dict[str, str]) -> Member:
    name = extended.get("path", info.name)
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extended):
        raise BadArchive(f"holds {name!r} as a sparse file, which can claim any size")
    size = info.size
    if "size" in extended:
        if not extended["size"].isdecimal() or len(extended["size"]) > 19:
            raise BadArchive(f"holds {name!r} with a size that is no number")
        size = int(extended["size"])
    if size < 0:
        raise BadArchive(f"holds {name!r} with a negative size")
    plain = info.isreg()
    link = extended.get("linkpath", info.linkname) if info.issym() or info.islnk() else ""
    return Member(name, tarfile.REGTYPE if plain else info.type, info.mode, size if plain else 0, link)


def _pax_records(content: bytes, last: str) -> dict[str, str]:
    records: dict[str, str] = {}
    while content:
        length, space, _ = content.partition(b" ")
        size = int(length) if space and length.isdigit() and len(length) < 10 else 0
        key, equals, value = content[len(length) + 1 : size - 1].partition(b"=")
        if size > len(content) or not equals or content[size - 1 : size] != b"\n":
            raise BadArchive(f"has an extended header after {last} that cannot be read")
        records[_text(key)] = _text(value)
        content = content[size:]
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _decompressed(stream: BinaryIO) -> _Source:
    magic = stream.read(6)
    stream.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        from isal import igzip_lib  # here, because most commands unpack nothing

        error = vars(igzip_lib)["IsalError"]  # its type hints take the class for an instance
        return _Streams(stream, lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), (error,))
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if magic == b"\xfd7zXZ\x00":
        # lzma.open has no limit of memory.
        return _Streams(stream, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY), (lzma.LZMAError,))
    return stream


class _Decompressor(Protocol):
    """What the decompressors of bz2, lzma and isal have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


class _Streams:
    """Decompresses one stream after another, as files that were joined hold them; zeros may stand between and after."""

    def __init__(
        self, stream: BinaryIO, make: Callable[[], _Decompressor], errors: tuple[type[Exception], ...]
    ) -> None:
        self._stream = stream
        self._make = make
        self._errors = errors
        self._decoder = make()

    def read(self, size: int) -> bytes:
        while True:
            if self._decoder.eof:
                rest = self._decoder.unused_data.lstrip(b"\0") or self._stream.read(CHUNK).lstrip(b"\0")
                if not rest:
                    return b""
                self._decoder = self._make()
            elif self._decoder.needs_input:
                rest = self._stream.read(CHUNK)
                if not rest:
                    raise EOFError("the compressed data ends before its end mark")
            else:
                rest = b""
            try:
                data = self._decoder.decompress(rest, size)
            except self._errors as error:
                raise BadArchive(f"is damaged or cut short: {_plain(error)}") from error
            if data:
                return data


def _plain(error: BaseException) -> str:
    text = str(error).strip().rstrip(".") or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text)[:200]
