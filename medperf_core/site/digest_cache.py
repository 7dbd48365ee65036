"""Remembers the hashes of inputs, so that what is unchanged is not read again.

One file per tree (or single file) below the folder, mode 0600, named after the tree's device and inode, so that a tree
that is moved keeps its memory::

    the name of this format, and the SHA-256 (32 bytes) of all that follows
    what the whole tree looked like, or "-" if a file was too young to be remembered, and its digest
    looks, SHA-256 and path of each file that was old enough; ends with NUL

A file's looks are its device, inode, size, mode, and times of modification and of change; the last cannot be set back
by whoever changes the content. A file that changed less than ``YOUNG_NS`` before it was read is not remembered: it
could change again within the same tick of the file system's clock and look the same.
"""

from __future__ import annotations

import hashlib
import os
import stat
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
"""Of all that is remembered; a million files need about 150 MiB. What was not used for longest goes first."""

MAX_RECORDS = 1000
USE_SECONDS = 3600.0
"""How exactly the last use of a record is noted."""

_FORMAT = b"digests 1\n"

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
        if (known := record.digest(_looks(status))) is not None:
            return known
        # A link that is named as the input itself is followed.
        (hashed,) = hash_files([os.path.realpath(path)])
        digest = f"sha256:{hashed.sha256}"
        if max(hashed.status.st_mtime_ns, hashed.status.st_ctime_ns) < started - YOUNG_NS:
            record.write(_looks(hashed.status), digest, {})
        return digest

    def tree_digest(self, root: Path, ignored: frozenset[str] = frozenset()) -> str:
        """As ``digest.tree_digest``."""
        started = time.time_ns()
        files: list[tuple[str, str]] = []

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
            whole = _looks_of_tree(found.looks, links) if len(found.remembered) == len(files) else "-"
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
        self, root: Path, files: Sequence[tuple[str, str]], known: dict[str, tuple[str, str]], started: int
    ) -> None:
        self.looks: list[tuple[str, str]] = []
        self.records: list[tuple[str, str]] = []
        self.remembered: dict[str, tuple[str, str]] = {}
        self.cost = 0
        changed = [path for path, looks in files if known.get(path, ("", ""))[0] != looks]
        fresh = dict(zip(changed, hash_files([f"{root}/{path}" for path in changed]), strict=True))
        for path, looks in files:
            if path in fresh:
                sha256, status = fresh[path]
                looks = _looks(status)
            else:
                sha256 = known[path][1]
            _, _, size, mode, modified, set_at = map(int, looks.split(":"))
            self.looks.append((path, looks))
            self.records.append(file_record(path, size, mode, sha256))
            self.cost += max(size, 4096)
            if max(modified, set_at) < started - YOUNG_NS:
                self.remembered[path] = looks, sha256


def _looks(status: os.stat_result) -> str:
    return (
        f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mode}:{status.st_mtime_ns}:{status.st_ctime_ns}"
    )


def _looks_of_tree(files: Sequence[tuple[str, str]], links: Sequence[ScannedLink]) -> str:
    records = [f"{looks}\0{path}\0" for path, looks in files]
    records += [f"l\0{target}\0{path}\0" for path, _, target in sorted(links)]
    return hashlib.sha256("".join(records).encode()).hexdigest()


def _check(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class _Record:
    """What is remembered of one tree or file."""

    def __init__(self, folder: Path, status: os.stat_result, ignored: frozenset[str] = frozenset()) -> None:
        self._folder = folder
        without = hashlib.sha256("/".join(sorted(ignored)).encode()).hexdigest()[:16] if ignored else "nothing"
        self._path = f"{folder}/{status.st_dev}-{status.st_ino}-without-{without}"
        self._used = 0.0
        self._looks, self._digest, self._body = "-", "", b""
        self._read()

    def digest(self, looks: str) -> str | None:
        """The digest of all, if it still looks like this."""
        if looks != self._looks:
            return None
        if time.time() - self._used > USE_SECONDS:
            try:
                os.utime(self._path)
            except OSError:
                pass  # removed meanwhile, or a home that only others may write to
        return self._digest

    def contents(self) -> dict[str, tuple[str, str]]:
        """The looks and SHA-256 of each file, by path."""
        found = {}
        for line in self._body.decode().split("\0")[:-1]:
            looks, sha256, path = line.split(" ", 2)
            found[path] = looks, sha256
        return found

    def write(self, looks: str, digest: str, files: dict[str, tuple[str, str]]) -> None:
        """Remember all this instead; without an error if that is not possible."""
        body = "".join(f"{looks} {sha256} {path}\0" for path, (looks, sha256) in files.items())
        content = f"{looks} {digest}\n{body}".encode()
        if len(content) > MAX_BYTES:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(Path(self._path), _FORMAT + _check(content) + content)
            self._make_room()
        except OSError:
            pass  # a full or read-only disk: the next time takes longer, and that is all

    def _read(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                record = os.read(descriptor, status.st_size)
            finally:
                os.close(descriptor)
        except OSError:
            return
        self._used = status.st_mtime
        start = len(_FORMAT) + 32
        content = record[start:]
        if record[:start] != _FORMAT + _check(content):
            return
        head, _, self._body = content.partition(b"\n")
        self._looks, _, self._digest = head.decode().partition(" ")

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
