"""Hashes of files and folders.

Two folder hashes exist side by side:

* ``tree_digest`` is this program's own. It covers every file's relative path, size, executable bit and SHA-256, and
  decides locally (source trees, inputs of steps, outputs).
* ``public_folder_hash`` is what servers know as ``generated_uid``: the public MedPerf client's hash since 2023-08,
  SHA-256 over the sorted hex SHA-256 of all files. It cannot see renamed or swapped files, so nothing is ever
  decided by it here; servers and other clients expect it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import attrs

from medperf_core.errors import InvalidEntityError

IGNORED_IN_SOURCES = frozenset({".git", "__pycache__", ".DS_Store", ".pytest_cache", ".mypy_cache", ".ruff_cache"})
"""Names that are neither packed nor hashed in a source tree: they change without the source changing."""

CHUNK = 1 << 20
_THREADS = 4  # more find the disk or the interpreter's lock in their way
_BUFFER = 1 << 18
# Below both, threads lose more time handing the interpreter to each other than they gain. A slow disk is above.
_SMALL_BYTES = 48 << 10
_SHORT_SECONDS = 60e-6
_PAUSE_SECONDS = 10e-3
# A link or pipe that took a file's place after its folder was read is neither followed nor waited for.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def file_digest(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file's bytes; ``on_bytes`` is told the size of each piece read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        while count := stream.readinto(buffer):
            digest.update(view[:count])
            if on_bytes:
                on_bytes(count)
    return digest.hexdigest()


@attrs.frozen
class TreeEntry:
    """A file or symbolic link of a tree.

    Attributes:
        path: relative to the tree, with ``/``.
        absolute: where it is here.
        size: bytes; 0 for a link.
        executable: whether its owner may execute it.
        link: the target of a symbolic link; None for a file.
    """

    path: str
    absolute: Path
    size: int
    executable: bool
    link: str | None = None


class ScannedLink(NamedTuple):
    """A symbolic link of a tree: its path relative to the tree, with ``/``, where it is here, and its target."""

    path: str
    place: str
    target: str


class HashedFile(NamedTuple):
    """What was read from a file: its hexadecimal SHA-256, and its status when it was opened."""

    sha256: str
    status: os.stat_result


def scan_tree(
    root: Path, ignored: frozenset[str], on_file: Callable[[str, os.DirEntry[str]], object]
) -> list[ScannedLink]:
    """Read the folders of a tree; returns its links.

    Args:
        on_file: is told each file's path relative to ``root`` and what its folder says of it, in no order. A tree may
            have millions: keeping the ``DirEntry`` would keep a kilobyte for each.

    Raises:
        InvalidEntityError: as ``tree_entries``, after all files were told.
    """
    links: list[ScannedLink] = []
    problems: list[str] = []
    folders = [(str(root), "")]
    while folders:
        folder, prefix = folders.pop()
        with os.scandir(folder) as listing:
            for item in listing:
                name = item.name
                if ignored and (name in ignored or name.startswith("._")):
                    continue
                path = prefix + name
                if not name.isascii() and not _is_utf8(name):
                    problems.append(f"{path!r}: its name is not valid UTF-8")
                elif item.is_file(follow_symlinks=False):
                    on_file(path, item)
                elif item.is_dir(follow_symlinks=False):
                    folders.append((item.path, path + "/"))
                elif item.is_symlink():
                    target = str(Path(item.path).readlink())
                    if not _is_utf8(target):
                        problems.append(f"{path}: a symbolic link to {target!r}, which is not valid UTF-8")
                    elif leads_out(path, target) or not _within(Path(item.path), Path(folder), path):
                        problems.append(f"{path}: a symbolic link to {target}, which is outside")
                    links.append(ScannedLink(path, item.path, target))
                else:
                    problems.append(f"{path}: neither a file nor a folder nor a link")
    if problems:
        raise InvalidEntityError(f"The folder {root} cannot be hashed or packed:", problems=problems)
    return links


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def tree_entries(root: Path, ignored: frozenset[str] = frozenset()) -> list[TreeEntry]:
    """The files and links below ``root``, sorted by the bytes of their paths.

    Raises:
        InvalidEntityError: something else than a file, folder or link is there, a link leads out of the tree, or
            a name or target cannot be written in UTF-8; all are listed.
    """
    entries: list[TreeEntry] = []

    def on_file(path: str, item: os.DirEntry[str]) -> None:
        status = item.stat(follow_symlinks=False)
        entries.append(TreeEntry(path, Path(item.path), status.st_size, bool(status.st_mode & stat.S_IXUSR)))

    links = scan_tree(root, ignored, on_file)
    entries += [TreeEntry(link.path, Path(link.place), 0, False, link.target) for link in links]
    # Paths are valid UTF-8 by now, so their characters sort as their bytes do.
    return sorted(entries, key=lambda entry: entry.path)


def _within(link: Path, folder: Path, path: str) -> bool:
    """Whether a link, followed through all others, ends inside of the tree that ``path`` is relative to."""
    root = folder
    for _ in PurePosixPath(path).parts[1:]:
        root = root.parent
    return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(root))


def leads_out(path: str, target: str) -> bool:
    """Whether a symbolic link at the relative ``path`` with this target points outside of its tree."""
    if target.startswith("/"):
        return True
    depth = len(PurePosixPath(path).parts) - 1
    for part in PurePosixPath(target).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def tree_digest(
    root: Path, ignored: frozenset[str] = frozenset(), on_bytes: Callable[[int], None] | None = None
) -> str:
    """``sha256:HEX`` over the paths, kinds, sizes, executable bits and contents of all files below ``root``.

    The hash is taken over one record per file, in order of the paths' UTF-8 bytes:
    ``f`` or ``x`` (executable), size, hexadecimal SHA-256 and path; for a link ``l``, 0, its target's SHA-256 and
    path; fields separated by a space, records ended by NUL. Empty folders, times and owners do not count.

    Args:
        on_bytes: is told the size of each piece read, by one thread at a time.

    Raises:
        InvalidEntityError: see ``tree_entries``; or a file changed meanwhile.
        OSError: a file or folder cannot be read.
    """
    paths: list[str] = []
    links = scan_tree(root, ignored, lambda path, _: paths.append(path))
    records = [
        file_record(path, status.st_size, status.st_mode, sha256)
        for path, (sha256, status) in zip(
            paths, hash_files([f"{root}/{path}" for path in paths], on_bytes), strict=True
        )
    ]
    return combined_digest(records, links)


def file_record(path: str, size: int, mode: int, sha256: str) -> tuple[str, str]:
    """A file's path and what ``tree_digest`` hashes of it."""
    return path, f"{'x' if mode & stat.S_IXUSR else 'f'} {size} {sha256} {path}\0"


def combined_digest(files: Iterable[tuple[str, str]], links: Iterable[ScannedLink]) -> str:
    """The ``tree_digest`` over the records of a tree's files, and its links."""
    records = [*files]
    records += [(path, f"l 0 {hashlib.sha256(target.encode()).hexdigest()} {path}\0") for path, _, target in links]
    digest = hashlib.sha256()
    for _, record in sorted(records):
        digest.update(record.encode())
    return f"sha256:{digest.hexdigest()}"


def hash_files(paths: Sequence[str], on_bytes: Callable[[int], None] | None = None) -> list[HashedFile]:
    """Read and hash each file, several at a time.

    Raises:
        InvalidEntityError: one is no file any more, or its size changed while it was read.
        OSError: one cannot be read.
    """
    return _Hashing(paths, on_bytes).run()


class _Hashing:
    """One run of ``hash_files``: each thread takes the next file when it is done with its last.

    While files are small and come fast, the caller does nearly all; its helpers only look in now and then.
    """

    def __init__(self, paths: Sequence[str], on_bytes: Callable[[int], None] | None) -> None:
        self._paths = paths
        self._on_bytes = on_bytes
        self._told = threading.Lock()
        self._next = iter(range(len(paths)))
        self._found: dict[int, HashedFile] = {}
        self._failures: list[BaseException] = []
        self._taken = threading.Event()
        self._caller_started = 0.0
        self._stopped = False

    def run(self) -> list[HashedFile]:
        count = min(_THREADS, os.cpu_count() or 1, len(self._paths))
        helpers = [threading.Thread(target=self._help, name="hashing") for _ in range(count - 1)]
        for helper in helpers:
            helper.start()
        try:
            self._work()
            self._taken.set()
            for helper in helpers:
                helper.join()
        finally:
            self._stopped = True
            self._taken.set()
            for helper in helpers:
                helper.join()
        if self._failures:
            raise self._failures[0]
        return [self._found[index] for index in range(len(self._paths))]

    def _help(self) -> None:
        try:
            self._work(helping=True)
        except BaseException as failure:
            self._failures.append(failure)
            self._stopped = True

    def _work(self, *, helping: bool = False) -> None:
        buffer = memoryview(bytearray(_BUFFER))
        paths, found = self._paths, self._found
        for index in self._next:
            started = time.perf_counter()
            if not helping:
                self._caller_started = started
            hashed = self._hash(paths[index], buffer)
            if hashed is None:
                return
            found[index] = hashed
            if helping and hashed.status.st_size < _SMALL_BYTES and time.perf_counter() - started < _SHORT_SECONDS:
                self._stand_back()

    def _stand_back(self) -> None:
        """Wait as long as the caller is fast too; one that is at a long file leaves the interpreter to others."""
        while time.perf_counter() - self._caller_started < _SHORT_SECONDS:
            if self._taken.wait(_PAUSE_SECONDS):
                return

    def _hash(self, path: str, buffer: memoryview) -> HashedFile | None:
        """None if the others have stopped."""
        digest = hashlib.sha256()
        descriptor = os.open(path, _OPEN)
        try:
            status = os.fstat(descriptor)
            left = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise _changed(path)
            # Not only until the size is reached: a file that grew, or that tells no size, must be noticed.
            while count := os.readv(descriptor, (buffer,)):
                digest.update(buffer[:count])
                left -= count
                if self._on_bytes:
                    with self._told:
                        self._on_bytes(count)
                if self._stopped:
                    return None
                if left <= 0 and count < len(buffer):
                    break
        finally:
            os.close(descriptor)
        if left:
            raise _changed(path)
        return HashedFile(digest.hexdigest(), status)


def _changed(path: str) -> InvalidEntityError:
    return InvalidEntityError(
        f"The file {path} cannot be hashed:",
        problems=["it changed while it was read; run it again when nothing writes to it"],
    )


def source_digest(root: Path) -> str:
    """``tree_digest`` of a source tree: without the names in ``IGNORED_IN_SOURCES``."""
    return tree_digest(root, IGNORED_IN_SOURCES)


def path_digest(path: Path) -> str:
    """``sha256:HEX`` of an input as it is mounted: a file's SHA-256, or a folder's ``tree_digest``."""
    return tree_digest(path) if path.is_dir() else f"sha256:{file_digest(path)}"


def public_folder_hash(paths: Iterable[Path]) -> str:
    """The public client's hash (hex) of one or several folders, such as ``[data, labels]``.

    A folder that is given twice counts twice; a path that is a file counts nothing; symbolic links to files are
    read through. Source: ``get_folders_hash`` of MedPerf client 0.1 to 0.3, as described by its users' test vectors.
    """
    hashes: list[str] = []
    for path in paths:
        for folder, _, names in os.walk(path):
            hashes += [file_digest(Path(folder, name)) for name in names]
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()
