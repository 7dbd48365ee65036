"""Remembers the hashes of inputs, so that what is unchanged is not read again.

One file per tree (or single file) below the folder, mode 0600, named after the tree's device and inode, so that a tree
that is moved keeps its memory::

    10 bytes   the name of this format
    32 bytes   the SHA-256 of the next three
    32 bytes   what the whole tree looked like, as a SHA-256; zeros if a file was too young to be remembered
    32 bytes   its digest
    32 bytes   the SHA-256 of all that follows, which is only read if something changed
    paths of the files that were old enough, with a NUL between them and two at the end
    80 bytes   for each of them: its looks, and its SHA-256

A file's looks are its device, inode, size, mode, and times of modification and of change; the last cannot be set back
by whoever changes the content. A file that changed less than ``YOUNG_NS`` before it was read is not remembered: it
could change again within the same tick of the file system's clock and look the same.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from medperf_core.plugin.digest import (
    ScannedLink,
    combined_digest,
    file_record,
    hash_files,
    path_digest,
    scan_tree,
)
from medperf_core.site.atomic import write_atomically

YOUNG_NS = 2_000_000_000
"""Coarser than the clock of any file system in use (FAT: 2 s)."""

MAX_BYTES = 256 << 20
"""Of all that is remembered; a million files need about 120 MiB. What was not used for longest goes first."""

MAX_RECORDS = 1000
USE_SECONDS = 3600.0
"""How exactly the last use of a record is noted."""

_FORMAT = b"digests 2\n"
_HEAD = len(_FORMAT) + 4 * 32
_YOUNG = bytes(32)

_LOOKS = struct.Struct("<QQqQqq")
_FILE = struct.Struct(f"{_LOOKS.size}s32s")
_NEVER_OLD = (1 << 63) - 1

WORTH_BYTES = 1 << 20
"""Reading less than this again is faster than to remember it; each file counts for at least 4 KiB."""


class DigestCache:
    """Gives the digests of ``medperf_core.plugin.digest``, reading only what changed since the last time.

    Args:
        folder: for its records alone; made when it is needed. Removing it costs nothing but time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_digest(self, path: Path) -> str:
        """As ``digest.path_digest``."""
        started = time.time_ns()
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return self.tree_digest(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size < WORTH_BYTES:
            return path_digest(path)
        record = _Record(self._folder, status)
        if (known := record.digest(_check(_looks(status)))) is not None:
            return known
        # A link that is named as the input itself is followed.
        (hashed,) = hash_files([os.path.realpath(path)])
        digest = f"sha256:{hashed.sha256}"
        looks = _looks(hashed.status)
        if max(_LOOKS.unpack(looks)[4:]) < started - YOUNG_NS:
            record.write(_check(looks), digest, {})
        return digest

    def tree_digest(self, root: Path, ignored: frozenset[str] = frozenset()) -> str:
        """As ``digest.tree_digest``."""
        started = time.time_ns()
        files: list[tuple[str, bytes]] = []

        def on_file(path: str, item: os.DirEntry[str]) -> None:
            files.append((path, _looks(item.stat(follow_symlinks=False))))

        links = scan_tree(root, ignored, on_file)
        files.sort()
        record = _Record(self._folder, root.stat(), ignored)
        if (known := record.digest(_looks_of_tree(files, links))) is not None:
            return known
        found = _Contents(root, files, record.contents(), started)
        digest = combined_digest(found.records, links)
        if found.cost >= WORTH_BYTES:
            whole = _looks_of_tree(found.looks, links) if len(found.remembered) == len(files) else _YOUNG
            record.write(whole, digest, found.remembered)
        return digest


class _Contents:
    """What is in the files of a tree, read from those alone that look different from what is known of them.

    Attributes:
        looks: of each file, as it was opened.
        records: of each file, for the digest.
        remembered: by path, the looks and SHA-256 of the files that are old enough.
        cost: bytes that it would take to read everything.
    """

    def __init__(
        self, root: Path, files: Sequence[tuple[str, bytes]], known: dict[str, tuple[bytes, str]], started: int
    ) -> None:
        self.looks: list[tuple[str, bytes]] = []
        self.records: list[tuple[str, str]] = []
        self.remembered: dict[str, tuple[bytes, str]] = {}
        self.cost = 0
        changed = [path for path, looks in files if known.get(path, (b"", ""))[0] != looks]
        fresh = dict(zip(changed, hash_files([f"{root}/{path}" for path in changed]), strict=True))
        for path, looks in files:
            if path in fresh:
                sha256, status = fresh[path]
                looks = _looks(status)
            else:
                sha256 = known[path][1]
            _, _, size, mode, *times = _LOOKS.unpack(looks)
            self.looks.append((path, looks))
            self.records.append(file_record(path, size, mode, sha256))
            self.cost += max(size, 4096)
            if max(times) < started - YOUNG_NS:
                self.remembered[path] = looks, sha256


def _looks(status: os.stat_result) -> bytes:
    """Times that do not fit (before 1678, after 2262) become one that is never old enough to be remembered."""
    try:
        return _pack(status, status.st_mtime_ns, status.st_ctime_ns)
    except struct.error:
        return _pack(status, _NEVER_OLD, _NEVER_OLD)


def _pack(status: os.stat_result, modified: int, changed: int) -> bytes:
    return _LOOKS.pack(status.st_dev, status.st_ino, status.st_size, status.st_mode, modified, changed)


def _looks_of_tree(files: Sequence[tuple[str, bytes]], links: Sequence[ScannedLink]) -> bytes:
    """No path or target is empty, so where the paths end and the links end is clear."""
    names = [path for path, _ in files]
    names.append("")
    for path, _, target in sorted(links):
        names += (target, path)
    return _check("\0".join(names).encode() + b"".join([looks for _, looks in files]))


def _check(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class _Record:
    """What is remembered of one tree or file."""

    def __init__(self, folder: Path, status: os.stat_result, ignored: frozenset[str] = frozenset()) -> None:
        self._folder = folder
        without = hashlib.sha256("/".join(sorted(ignored)).encode()).hexdigest()[:16] if ignored else "nothing"
        self._path = f"{folder}/{status.st_dev}-{status.st_ino}-without-{without}"
        self._used = 0.0
        self._looks, self._digest, self._body = _YOUNG, "", b""
        self._read()

    def digest(self, looks: bytes) -> str | None:
        """The digest of all, if it still looks like this."""
        if looks != self._looks:
            return None
        if time.time() - self._used > USE_SECONDS:
            try:
                os.utime(self._path)
            except OSError:
                pass  # removed meanwhile, or a home that only others may write to
        return self._digest

    def contents(self) -> dict[str, tuple[bytes, str]]:
        """The looks and SHA-256 of each file, by path."""
        try:
            body = Path(self._path).read_bytes()[_HEAD:] if self._body else b""
        except OSError:
            return {}
        if _check(body) != self._body:
            return {}
        paths, _, files = body.partition(b"\0\0")
        found = zip(paths.decode().split("\0"), _FILE.iter_unpack(files), strict=False)
        return {path: (looks, sha256.hex()) for path, (looks, sha256) in found}

    def write(self, looks: bytes, digest: str, files: dict[str, tuple[bytes, str]]) -> None:
        """Remember all this instead; without an error if that is not possible."""
        body = "\0".join(files).encode() + b"\0\0"
        body += b"".join([looks + bytes.fromhex(sha256) for looks, sha256 in files.values()])
        head = looks + bytes.fromhex(digest.removeprefix("sha256:")) + _check(body)
        if len(body) > MAX_BYTES:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(Path(self._path), _FORMAT + _check(head) + head + body)
            self._make_room()
        except OSError:
            pass  # a full or read-only disk: the next time takes longer, and that is all

    def _read(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                record = os.read(descriptor, _HEAD)
            finally:
                os.close(descriptor)
        except OSError:
            return
        self._used = status.st_mtime
        head = record[-96:]
        if record == _FORMAT + _check(head) + head:
            self._looks, self._digest, self._body = head[:32], f"sha256:{head[32:64].hex()}", head[64:]

    def _make_room(self) -> None:
        """Whatever else a crash may have left in the folder counts and goes like a record."""
        with os.scandir(self._folder) as listing:
            records = [(item.stat(follow_symlinks=False), item.path) for item in listing]
        records.sort(key=lambda record: -record[0].st_mtime_ns)
        total = 0
        for count, (status, path) in enumerate(records, start=1):
            total += status.st_size
            if (count > MAX_RECORDS or total > MAX_BYTES) and path != self._path:
                Path(path).unlink()
