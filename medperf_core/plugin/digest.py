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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

import attrs

from medperf_core.errors import InvalidEntityError

IGNORED_IN_SOURCES = frozenset({".git", "__pycache__", ".DS_Store", ".pytest_cache", ".mypy_cache", ".ruff_cache"})
"""Names that are neither packed nor hashed in a source tree: they change without the source changing."""

CHUNK = 1 << 20


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


def tree_entries(root: Path, ignored: frozenset[str] = frozenset()) -> list[TreeEntry]:
    """The files and links below ``root``, sorted by path.

    Raises:
        InvalidEntityError: something else than a file, folder or link is there, a link leads out of the tree, or
            a name cannot be written in UTF-8; all are listed.
    """
    problems: list[str] = []
    entries = sorted(_walk(root, "", ignored, problems), key=lambda entry: entry.path.encode())
    if problems:
        raise InvalidEntityError(f"The folder {root} cannot be hashed or packed:", problems=problems)
    return entries


def _walk(folder: Path, prefix: str, ignored: frozenset[str], problems: list[str]) -> Iterator[TreeEntry]:
    with os.scandir(folder) as listing:
        for item in listing:
            if item.name in ignored or (ignored and item.name.startswith("._")):
                continue
            path = prefix + item.name
            try:
                path.encode()
            except UnicodeEncodeError:
                problems.append(f"{path!r}: its name is not valid UTF-8")
                continue
            if item.is_symlink():
                target = str(Path(item.path).readlink())
                if leads_out(path, target) or not _within(Path(item.path), folder, path):
                    problems.append(f"{path}: a symbolic link to {target}, which is outside")
                yield TreeEntry(path, Path(item.path), 0, False, target)
            elif item.is_dir(follow_symlinks=False):
                yield from _walk(Path(item.path), path + "/", ignored, problems)
            elif item.is_file(follow_symlinks=False):
                status = item.stat(follow_symlinks=False)
                yield TreeEntry(path, Path(item.path), status.st_size, bool(status.st_mode & 0o100))
            else:
                problems.append(f"{path}: neither a file nor a folder nor a link")


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
    """
    digest = hashlib.sha256()
    for entry in tree_entries(root, ignored):
        if entry.link is not None:
            kind, content = "l", hashlib.sha256(entry.link.encode()).hexdigest()
        else:
            kind, content = "x" if entry.executable else "f", file_digest(entry.absolute, on_bytes)
        digest.update(f"{kind} {entry.size} {content} {entry.path}\0".encode())
    return f"sha256:{digest.hexdigest()}"


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
