"""The content-addressed cache: files and unpacked archives, each found by a SHA-256 and trusted only while unchanged.

Layout below the root (mode 0700)::

    files/ab/ab12...        a file, mode 0444
    files/ab/ab12....json   what it looked like when its hash was last computed
    trees/ab/ab12...        the archive of that hash, unpacked
    trees/ab/ab12....json   the same for the tree, with its tree_digest
    locks/ab12....lock      held while an entry is changed; processes share the cache safely
    temp/                   files that are on their way in
    partial/                files whose fetch was interrupted; see ``partials``
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities.checks import SHA256_HEX
from medperf_core.errors import InvalidEntityError, NotFoundError
from medperf_core.plugin.digest import file_digest, tree_digest
from medperf_core.site.archive import unpack
from medperf_core.site.atomic import write_atomically
from medperf_core.site.hold import held
from medperf_core.site.home import remove_tree
from medperf_core.site.partials import Partials
from medperf_core.site.tarstream import UnpackLimits

LEFTOVER_SECONDS = 24 * 3600
SMALL = 1 << 20
"""Bytes up to which a new file is not waited for to be on the disk."""
_DEFAULT_LIMITS = UnpackLimits()


class Kind(StrEnum):
    """What an entry is."""

    FILE = "file"
    TREE = "tree"
    PARTIAL = "partial"


_WHOLE = (Kind.FILE, Kind.TREE)


@attrs.frozen
class CacheEntry:
    """An entry as ``medperf cache`` lists it.

    Attributes:
        sha256: hexadecimal; for a tree, of the archive that it was unpacked from; for what came of a file whose fetch
            was interrupted, of the whole file as it is expected.
        size: bytes, of all files together for a tree.
        used: seconds since the epoch when it was last asked for, or came in.
    """

    sha256: str
    kind: Kind
    path: Path
    size: int
    used: float


class Cache:
    """All paths that it returns are read-only by agreement: what is changed there is fetched or unpacked again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (root, *(root / name for name in ("files", "trees", "locks", "temp"))):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        self.partials = Partials(root / "partial")
        self._is_tidy = False

    def temporary(self) -> Path:
        """A new name for a file on its way in, for ``add``. Whoever asks removes it if it comes to nothing."""
        return self.root / "temp" / secrets.token_hex(16)

    def file(self, sha256: str) -> Path | None:
        """The file of that hash; None if there is none, or if it is not what it was and so was dropped."""
        path = self._path(Kind.FILE, sha256)
        if not os.path.lexists(path):
            return None
        with self._lock(sha256):  # so that what is about to be used is not freed
            looks = _looks_of_file(path)
            if looks is not None and _recorded(path) == looks:
                _note_use(path)
                return path
            return path if self._checked_file(path, sha256) else None

    def add(self, sha256: str, temporary: Path) -> Path:
        """Take in a file whose SHA-256 was computed while it was written.

        A large one is on the disk afterwards. A small one may not be yet, so it is hashed again after the next start of
        the machine: waiting for the disk would take longer than fetching it.

        Args:
            temporary: the file, at a name that ``temporary()`` gave; it is moved.
        """
        path = self._path(Kind.FILE, sha256)
        with self._lock(sha256):
            if self._checked_file(path, sha256):
                temporary.unlink()
                _note_use(path)
            else:
                temporary.chmod(0o444)
                boot = "" if temporary.stat().st_size > SMALL else _boot()
                if not boot:
                    _sync(temporary)
                try:
                    temporary.rename(path)
                except FileNotFoundError:
                    path.parent.mkdir(mode=0o700, exist_ok=True)
                    temporary.rename(path)
                _record(path, _looks_of_file(path), boot=boot)
        return path

    def tree(self, sha256: str, limits: UnpackLimits = _DEFAULT_LIMITS) -> Path:
        """The archive of that hash, unpacked.

        A tree that looks different from when it was unpacked is hashed again and, if it differs, unpacked again.

        Raises:
            NotFoundError: neither the tree nor the archive is here; fetch the archive first.
            InvalidEntityError: the archive is damaged or hostile (see ``archive.unpack``).
            TransferError: there is no room.
        """
        path = self._path(Kind.TREE, sha256)
        with self._lock(sha256):
            if _is_unchanged_tree(path):
                _note_use(path)
                return path
            if self._checked_tree(path):
                _note_use(path)
                return path
            archive = self._path(Kind.FILE, sha256)
            if not self._checked_file(archive, sha256):
                raise NotFoundError(f"The cache has no archive with the SHA-256 {sha256}.", hint="Fetch it first.")
            path.parent.mkdir(mode=0o700, exist_ok=True)
            for leftover in path.parent.glob(f".{sha256[:16]}*"):
                self._discard(leftover)
            unpack(archive, path, limits)
            _record(path, _looks_of_tree(path), tree_digest(path))
            return path

    def entries(self) -> list[CacheEntry]:
        """All entries, the longest unused first."""
        found = []
        for kind, path in self._paths():
            try:
                used = _record_path(path).stat().st_mtime
            except OSError:
                used = 0.0
            found.append(CacheEntry(path.name, kind, path, tree_size(path), used))
        found += [
            CacheEntry(part.sha256, Kind.PARTIAL, part.path, part.size, part.used)
            for part in self.partials.parts()
            if part.sha256
        ]
        return sorted(found, key=lambda entry: (entry.used, entry.sha256, entry.kind))

    def size(self) -> int:
        """Bytes of all files in the cache."""
        return sum(entry.size for entry in self.entries())

    def remove(self, sha256: str) -> int:
        """Remove the file and the tree of that hash, and what came of it when a fetch was interrupted; returns the
        bytes that they had."""
        freed = 0
        for part in self.partials.parts():
            if part.sha256 == sha256:
                freed += self.partials.remove(part.key)
        with self._lock(sha256):
            for kind in _WHOLE:
                path = self._path(kind, sha256)
                freed += tree_size(path)
                self._drop(path)
        return freed

    def free(self, entry: CacheEntry, in_use_since: float) -> bool:
        """Remove an entry unless it was used since then (seconds since the epoch); whether it went."""
        if entry.kind is Kind.PARTIAL:
            return self.partials.remove(entry.path.stem) > 0
        with self._lock(entry.sha256):
            try:
                if _record_path(entry.path).stat().st_mtime >= in_use_since:
                    return False
            except FileNotFoundError:
                pass  # without a record it is of no use to anybody
            self._drop(entry.path)
        return True

    def verify(self) -> list[CacheEntry]:
        """Hash everything that is whole again, whatever it looks like; drops and returns what is not what it was."""
        return [entry for entry in self.entries() if entry.kind is not Kind.PARTIAL and not self.verify_entry(entry)]

    def verify_entry(self, entry: CacheEntry) -> bool:
        """Hash a file or a tree again, whatever it looks like; drops it if it is not what it was."""
        with self._lock(entry.sha256):
            used = _used(entry.path)
            if entry.kind is Kind.FILE:
                good = self._checked_file(entry.path, entry.sha256, anew=True)
            else:
                good = self._checked_tree(entry.path, anew=True)
            if good and used is not None:  # to look at it is not to use it
                os.utime(_record_path(entry.path), ns=(used, used))
        return good

    def tidy(self) -> None:
        """``remove_leftovers``, once for this object: before files are fetched."""
        if not self._is_tidy:
            self._is_tidy = True
            self.remove_leftovers()

    def remove_leftovers(self, before: float | None = None) -> int:
        """Remove what crashed processes left on its way in, and interrupted files that are kept no longer; returns the
        bytes that the former had.

        Args:
            before: seconds since the epoch; only what nobody touched since then. None for a day ago.
        """
        self.partials.sweep()
        freed = 0
        for path, size in self.leftovers(before):
            try:
                self._discard(path)
                freed += size
            except OSError:
                pass  # another process was faster
        return freed

    def leftovers(self, before: float | None = None) -> list[tuple[Path, int]]:
        """What ``remove_leftovers`` would remove, with its bytes."""
        limit = time.time() - LEFTOVER_SECONDS if before is None else before
        found = []
        for path in (self.root / "temp").iterdir():
            with suppress(OSError):
                status = path.lstat()
                # The change time, too: an old file may have got its name there just now.
                if max(status.st_mtime, status.st_ctime) < limit:
                    found.append((path, tree_size(path)))
        return found

    def sweep_locks(self) -> None:
        """Remove lock files. Only while nobody else uses the cache: who waits for a removed one would not be alone."""
        for path in (*(self.root / "locks").glob("*.lock"), *(self.root / "partial").glob("*.lock")):
            with suppress(OSError):
                path.unlink()

    def _path(self, kind: Kind, sha256: str) -> Path:
        if not SHA256_HEX.fullmatch(sha256):
            raise InvalidEntityError(f"{sha256!r} is not a SHA-256.", hint="It has 64 digits 0-9 and a-f.")
        return self.root / f"{kind}s" / sha256[:2] / sha256

    def _paths(self) -> Iterator[tuple[Kind, Path]]:
        for kind in _WHOLE:
            for folder in sorted((self.root / f"{kind}s").iterdir()):
                for path in sorted(folder.iterdir()):
                    if SHA256_HEX.fullmatch(path.name):
                        yield kind, path

    def _lock(self, sha256: str) -> AbstractContextManager[object]:
        self._path(Kind.FILE, sha256)
        return held(self.root / "locks" / f"{sha256}.lock")

    def _checked_file(self, path: Path, sha256: str, *, anew: bool = False) -> bool:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return False  # a record that it left is of the past, and written anew with the next file
        looks = _looks_of(status) if stat.S_ISREG(status.st_mode) else None
        if looks is not None and not anew and _recorded(path) == looks:
            return True
        try:
            good = looks is not None and file_digest(path) == sha256 and _looks_of_file(path) == looks
        except OSError:
            good = False  # a file that cannot be read is as good as none
        if not good:
            self._drop(path)
            return False
        with suppress(OSError):  # such as on a full disk: it is hashed again the next time
            _sync(path)
            _record(path, looks)
        return True

    def _checked_tree(self, path: Path, *, anew: bool = False) -> bool:
        if not anew and _is_unchanged_tree(path):
            return True
        expected = _record_of(path).get("tree_digest")
        if expected and path.is_dir() and not path.is_symlink():
            looks = _looks_of_tree(path)
            with suppress(InvalidEntityError, OSError):  # for something that no archive can have brought; it goes
                if tree_digest(path) == expected:
                    with suppress(OSError):  # as above
                        _record(path, looks, expected)
                    return True
        self._drop(path)
        return False

    def _drop(self, path: Path) -> None:
        _record_path(path).unlink(missing_ok=True)
        if os.path.lexists(path):
            self._discard(path)

    def _discard(self, path: Path) -> None:
        """Takes its name away in one step, then removes it."""
        aside = self.temporary()
        path.rename(aside)
        remove_tree(aside)


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


@cache
def _boot() -> str:
    """Names the time since the machine was started; "" where that is not told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record(path: Path, looks: str | None, digest: str = "", boot: str = "") -> None:
    """Write down what an entry looks like; with ``boot``, only until the next start of the machine."""
    fields = {"looks": looks, "tree_digest": digest, "boot": boot}
    content = json.dumps({name: value for name, value in fields.items() if value})
    if digest:
        write_atomically(_record_path(path), content)
    else:  # without it, or with half of it, a file is hashed again: not worth waiting for the disk
        descriptor = os.open(_record_path(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)


def _used(path: Path) -> int | None:
    """When it was last used, in nanoseconds since the epoch; None if that is not known."""
    try:
        return _record_path(path).stat().st_mtime_ns
    except OSError:
        return None


def _note_use(path: Path) -> None:
    try:
        os.utime(_record_path(path))
    except OSError:
        pass  # removed meanwhile, or a cache that only others may write to


def _record_of(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(_record_path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _recorded(path: Path) -> str | None:
    record = _record_of(path)
    looks = record.get("looks") if record.get("boot", "") in ("", _boot()) else None
    return looks if isinstance(looks, str) else None


def _is_unchanged_tree(path: Path) -> bool:
    recorded = _recorded(path)
    return recorded is not None and recorded == _looks_of_tree(path)


def _looks(path: str | Path) -> str:
    return _looks_of(os.lstat(path))


def _looks_of(status: os.stat_result) -> str:
    # The change time cannot be set back by whoever changes the content and then the other times.
    return f"{status.st_mode:o} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _looks_of_file(path: Path) -> str | None:
    try:
        status = os.lstat(path)
        return _looks_of(status) if stat.S_ISREG(status.st_mode) else None
    except OSError:
        return None


def _looks_of_tree(path: Path) -> str | None:
    """A hash over what all files and folders of a tree look like; None if it is not there."""
    if not path.is_dir() or path.is_symlink():
        return None
    digest = hashlib.sha256()
    try:
        for folder, names, files in os.walk(path, onerror=_raise):
            names.sort()
            digest.update(f"{folder[len(str(path)) :]} {_looks(folder)}\0".encode("utf-8", "surrogateescape"))
            for name in sorted([*files, *(name for name in names if Path(folder, name).is_symlink())]):
                looks = _looks(f"{folder}/{name}")
                digest.update(f"{name} {looks}\0".encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return digest.hexdigest()


def _raise(error: OSError) -> None:
    raise error


def tree_size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what vanishes meanwhile does not count."""
    total = 0
    try:
        if not path.is_dir():
            return path.lstat().st_size
        for folder, _, files in os.walk(path):
            total += sum(os.lstat(f"{folder}/{name}").st_size for name in files)
    except OSError:
        pass  # removed meanwhile by another process
    return total
