"""Packs folders into archives that are the same bytes everywhere, and unpacks archives that nobody trusts yet."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tarfile
import unicodedata
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import attrs

from medperf_core.errors import InvalidEntityError, TransferError
from medperf_core.plugin.digest import TreeEntry, leads_out, tree_entries
from medperf_core.site.atomic import new_folder, write_atomically
from medperf_core.site.side_hash import SideHash
from medperf_core.site.tarstream import CHUNK, BadArchive, Member, TarStream, UnpackLimits

LEVEL = 2
"""isal's level of every archive: weights get as small as with zlib's level 6, text about a sixth larger."""

GZIP_BITS = 31  # a window of 32 KiB, with gzip's header and trailer around it
NAMED = 20
"""Members of a packed archive that are told by name."""
NAME_BYTES = 255
PATH_BYTES = 1024
DEPTH = 64
SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID
_DEFAULT_LIMITS = UnpackLimits()


@attrs.frozen
class PackedTar:
    """An archive that was packed.

    Attributes:
        sha256: hexadecimal hash of the archive file; what a server registers.
        tar_sha256: hexadecimal hash of the tar inside. Two versions of isal, or isal on another kind of processor,
            may compress the same tar to different bytes; this hash is the same for all, so it tells whether two
            archives hold the same.
        size: bytes of the archive file.
        count: of its files and links.
        names: the paths of the first of them, at most ``NAMED``.
    """

    sha256: str
    tar_sha256: str
    size: int
    count: int = 0
    names: tuple[str, ...] = ()


class _CompressedTar:
    """A tar on its way into a file: hashed, compressed, and hashed again. Used as a context manager."""

    def __init__(self, stream: BinaryIO) -> None:
        from isal import isal_zlib  # here, because most commands compress nothing

        self._stream = stream
        # No name and no time stand in the header of isal's gzip.
        self._compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, GZIP_BITS)
        # What isal makes of the same bytes depends on the pieces that it gets, so all are of one size.
        self._piece = memoryview(bytearray(CHUNK))
        self._filled = 0
        self._inner = hashlib.sha256()
        self._outer = SideHash()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outer.close()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the tar."""
        while data:
            room = self.room()[: len(data)]
            room[:] = data[: len(room)]
            data = data[len(room) :]
            self.took(len(room))

    def room(self) -> memoryview:
        """Where the next bytes of the tar may be put instead, at least one; then call ``took``."""
        return self._piece[self._filled :]

    def took(self, count: int) -> None:
        """So many bytes were put into ``room``."""
        self._filled += count
        if self._filled == len(self._piece):
            self._compress()

    def finish(self) -> PackedTar:
        """Write what is left."""
        self._compress()
        self._put(self._compressor.flush())
        return PackedTar(self._outer.hexdigest(), self._inner.hexdigest(), self._size)

    def _compress(self) -> None:
        piece = self._piece[: self._filled]
        self._inner.update(piece)
        self._put(self._compressor.compress(piece))
        self._filled = 0

    def _put(self, data: bytes) -> None:
        self._outer.update(data)
        self._stream.write(data)
        self._size += len(data)


def pack_tree(
    root: Path,
    target: Path,
    ignored: frozenset[str] = frozenset(),
    on_bytes: Callable[[int, int], None] | None = None,
) -> PackedTar:
    """Pack the files and links below ``root`` into a gzip-compressed tar.

    Paths, contents, executable bits and link targets decide the bytes; times, owners, other permissions, the order on
    disk and empty folders do not.

    Args:
        target: the archive, usually ``*.tar.gz``; replaced in one step, mode 0644.
        ignored: names to leave out, such as ``digest.IGNORED_IN_SOURCES``.
        on_bytes: is told how many bytes of the files were packed so far, and how many there are; may raise.

    Raises:
        InvalidEntityError: the tree holds what cannot be packed (see ``tree_entries``), or changed meanwhile.
        TransferError: the archive cannot be written.
    """
    entries = tree_entries(root, ignored)
    packed: list[PackedTar] = []
    total, done = sum(entry.size for entry in entries), 0

    def took(count: int) -> None:
        nonlocal done
        done += count
        if on_bytes is not None:
            on_bytes(done, total)

    def write(stream: BinaryIO) -> None:
        with _CompressedTar(stream) as tar:
            for entry in entries:
                _add(tar, entry, took)
            tar.write(bytes(2 * tarfile.BLOCKSIZE))
            packed.append(tar.finish())

    try:
        write_atomically(target, write, mode=0o644)
    except OSError as error:
        raise TransferError(
            f"The archive {target} cannot be written: {error.strerror or error}.",
            hint="Check the folder and its free space; nothing was kept.",
        ) from error
    return attrs.evolve(packed[0], count=len(entries), names=tuple(entry.path for entry in entries[:NAMED]))


def _add(tar: _CompressedTar, entry: TreeEntry, took: Callable[[int], None]) -> None:
    info = tarfile.TarInfo(entry.path)
    if entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
        tar.write(_header(info))
        return
    info.size, info.mode = entry.size, 0o755 if entry.executable else 0o644
    with _opened(entry) as content:
        tar.write(_header(info))
        left = entry.size
        # One byte more is asked for than should be there.
        while count := _read(entry, content, tar.room()[: left + 1]):
            left -= count
            if left < 0:
                raise _changed(entry)
            tar.took(count)
            took(count)
    if left:
        raise _changed(entry)
    tar.write(bytes(-entry.size % tarfile.BLOCKSIZE))


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _opened(entry: TreeEntry) -> FileIO:
    try:
        descriptor = os.open(entry.absolute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(entry, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _changed(entry)
    return os.fdopen(descriptor, "rb", buffering=0)


def _read(entry: TreeEntry, content: FileIO, room: memoryview) -> int:
    try:
        return content.readinto(room) or 0
    except OSError as error:
        raise _unreadable(entry, error) from error


def _unreadable(entry: TreeEntry, error: OSError) -> InvalidEntityError:
    return InvalidEntityError(
        f"{entry.absolute} cannot be packed: {error.strerror}.", hint="Check that you may read it."
    )


def _changed(entry: TreeEntry) -> InvalidEntityError:
    return InvalidEntityError(
        f"{entry.absolute} changed while it was packed.", hint="Run it again when nothing writes to the folder."
    )


def unpack(archive: Path, target: Path, limits: UnpackLimits = _DEFAULT_LIMITS) -> None:
    """Unpack a tar, compressed or not, that comes from anywhere, into a new folder.

    Files get mode 0644 or 0755, folders 0755; owners and times are not restored. Metadata of macOS (``._*`` and
    ``__MACOSX``) is left out. Symbolic and hard links may lead to other entries of the same archive only, and not
    in a circle.

    Args:
        target: appears when all went well, and does not exist before.

    Raises:
        InvalidEntityError: the archive is damaged, holds an entry that is not a plain file, folder or inner link, or
            goes past a limit; names the archive and the entry. Nothing is kept.
        TransferError: the archive cannot be opened or the folder cannot be written.
        FileExistsError: ``target`` exists.
    """
    try:
        with new_folder(target) as folder:
            try:
                _Unpacking(folder, limits).run(archive)
            except BadArchive as error:
                raise InvalidEntityError(
                    f"The archive {archive} was refused: it {error}.",
                    hint="Nothing of it was kept. Ask whoever made it for a clean one.",
                ) from error
            folder.chmod(0o755)
    except FileExistsError:
        raise
    except OSError as error:
        raise TransferError(
            f"The archive {archive} cannot be unpacked to {target}: {error.strerror or error}.",
            hint="Check that it can be read, and the free space; nothing was kept.",
        ) from error


class _Unpacking:
    """One run of ``unpack``: what was made so far, by path."""

    def __init__(self, folder: Path, limits: UnpackLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._kinds: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._count = 0

    def run(self, archive: Path) -> None:
        with TarStream(archive, self._limits) as stream:
            for member in stream.members():
                self._count += 1
                if self._count > self._limits.entries:
                    raise BadArchive(f"has more than {self._limits.entries} entries; {member.name!r} is one too many")
                parts = _checked_parts(member.name)
                if parts and not any(part.startswith("._") or part == "__MACOSX" for part in parts):
                    self._take(member, "/".join(parts), stream)
        self._make_links()

    def _take(self, member: Member, path: str, stream: TarStream) -> None:
        self._make_parents(path)
        if member.kind == tarfile.DIRTYPE:
            self._make_folder(path)
            return
        if path in self._kinds:
            raise BadArchive(f"holds {path!r} twice")
        if member.kind == tarfile.REGTYPE:
            if member.mode & SPECIAL_BITS:
                raise BadArchive(f"holds {path!r} with the setuid or setgid bit")
            self._write(path, member, stream)
            self._kinds[path] = "file"
        elif member.kind == tarfile.LNKTYPE:
            self._link_to_file(path, member.link)
            self._kinds[path] = "file"
        elif member.kind == tarfile.SYMTYPE:
            _check_text(member.link, f"the target of the link {path!r}")
            if leads_out(path, member.link):
                raise BadArchive(f"holds the link {path!r} to {member.link!r}, which is outside of it")
            self._links[path] = member.link
            self._kinds[path] = "link"
        else:
            raise BadArchive(f"holds {path!r}, which is a device, a pipe or of an unknown kind")

    def _make_parents(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent and self._kinds.get(parent) != "folder":
            self._make_parents(parent)
            self._make_folder(parent)

    def _make_folder(self, path: str) -> None:
        kind = self._kinds.get(path)
        if kind is None:
            made = self._folder / path
            made.mkdir()
            made.chmod(0o755)
            self._kinds[path] = "folder"
        elif kind != "folder":
            raise BadArchive(f"holds {path!r} as a {kind} and as a folder")

    def _write(self, path: str, member: Member, stream: TarStream) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._folder / path, flags, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o755 if member.mode & 0o111 else 0o644)
            while data := stream.read(CHUNK):
                file.write(data)

    def _link_to_file(self, path: str, target: str) -> None:
        inside = "/".join(_checked_parts(target))
        if self._kinds.get(inside) != "file":
            raise BadArchive(f"holds {path!r} as a hard link to {target!r}, which is no earlier file of it")
        os.link(self._folder / inside, self._folder / path)

    def _make_links(self) -> None:
        # Last of all, so that nothing can have been written through a link.
        for path, target in self._links.items():
            (self._folder / path).symlink_to(target)
        # A link through another link can lead out although each by itself looks harmless.
        root = os.path.realpath(self._folder)
        for path, target in self._links.items():
            if _circles(self._folder / path):
                raise BadArchive(
                    f"holds the link {path!r} to {target!r}, which leads in a circle or through many links"
                )
            reached = os.path.realpath(self._folder / path)
            if reached != root and not reached.startswith(root + os.sep):
                raise BadArchive(f"holds the link {path!r} to {target!r}, which is outside of it")


def _circles(link: Path) -> bool:
    """Whether the system gives up following a link (ELOOP: after 40 on Linux)."""
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _checked_parts(name: str) -> list[str]:
    """The parts of an entry's path; [] for the archive's own root."""
    _check_text(name, repr(name))
    if name.startswith("/"):
        raise BadArchive(f"holds {name!r}, which is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadArchive(f"holds {name!r}, which leads out of it")
    if "\\" in name:
        raise BadArchive(f"holds {name!r}, which has a backslash in its name")
    if len(parts) > DEPTH or any(len(part.encode()) > NAME_BYTES for part in parts):
        raise BadArchive(f"holds {name[:80]!r}..., which is nested too deep or named too long")
    return parts


def _check_text(text: str, what: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadArchive(f"holds {what}, which is not valid UTF-8") from None
    if not text or any(unicodedata.category(char) == "Cc" for char in text):
        raise BadArchive(f"holds {what[:200]}, which is empty or has control characters")
    if size > PATH_BYTES:
        raise BadArchive(f"holds {what[:80]}..., which is longer than {PATH_BYTES} bytes")
