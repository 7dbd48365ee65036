"""What came of files whose fetch was interrupted, kept so that a later fetch of the same file goes on from there.

Layout below the root (mode 0700)::

    ab12...part     the bytes that came
    ab12...json     of what file they are, see ``PartialRecord``; without it the bytes are of no use
    ab12...lock     held by the process that works on them

The name is a hash of the address, without its secrets, and of the expected SHA-256. The record holds no address.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import attrs

from medperf_core.entities.checks import SHA256_HEX
from medperf_core.site.atomic import write_atomically
from medperf_core.site.hold import held

KEPT_SECONDS = 7 * 24 * 3600
KEPT_FILES = 8
"""Interrupted files that are kept, the newest ones."""
_VERSION = re.compile(r"[\x20-\x7e]{1,1024}")
_RECORD_BYTES = 8192


@attrs.frozen
class PartialRecord:
    """Of what file the bytes are.

    Attributes:
        sha256: hexadecimal, of the whole file as it is expected.
        version: what the store calls this content; see ``FetchInfo.version``.
        size: bytes of the whole file; None if the store did not tell.
    """

    sha256: str
    version: str
    size: int | None = None


@attrs.frozen
class KeptPart:
    """An interrupted file as it is listed.

    Attributes:
        key: names it here.
        sha256: hexadecimal, of the whole file as it is expected; "" if nothing is known of it.
        size: bytes that came.
        used: seconds since the epoch when the last of them came.
    """

    key: str
    path: Path
    sha256: str
    size: int
    used: float


@attrs.frozen
class Partial:
    """An interrupted or new file that this process alone works on."""

    path: Path
    _record_path: Path

    def kept(self) -> PartialRecord | None:
        """What the bytes at ``path`` are; None if they are of no use."""
        return _read(self._record_path) if _size(self.path) else None

    def note(self, record: PartialRecord) -> None:
        """Write down what the bytes are.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(self._record_path, json.dumps(attrs.asdict(record)))

    def forget(self) -> None:
        """Remove what is known of the bytes, so that they are used no more."""
        self._record_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the bytes, too."""
        self.forget()
        self.path.unlink(missing_ok=True)


class Partials:
    """The interrupted files of one cache."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def taken(self, address: str, sha256: str) -> Iterator[Partial | None]:
        """A file to work on until the block ends; None if another process does.

        Args:
            address: without secrets.
            sha256: hexadecimal, of the whole file as it is expected.
        """
        key = _key(address, sha256)
        with self._held(key) as mine:
            if not mine:
                yield None
                return
            partial = self._partial(key)
            if os.path.lexists(partial.path):
                record = partial.kept()
                if record is None or record.sha256 != sha256:
                    partial.discard()
            yield partial

    def kept_bytes(self, address: str, sha256: str) -> int:
        """How many bytes are there to go on from, for ``taken`` with the same words; 0 if there are none."""
        partial = self._partial(_key(address, sha256))
        record = partial.kept()
        return _size(partial.path) if record is not None and record.sha256 == sha256 else 0

    def parts(self) -> list[KeptPart]:
        """All interrupted files, those being worked on too, the oldest first."""
        found = []
        for path in self._root.glob("*.part"):
            with suppress(OSError):  # done or removed meanwhile
                status = path.lstat()
                record = _read(path.with_suffix(".json"))
                sha256 = record.sha256 if record else ""
                found.append(KeptPart(path.stem, path, sha256, status.st_size, status.st_mtime))
        return sorted(found, key=lambda part: (part.used, part.key))

    def remove(self, key: str) -> int:
        """Remove one unless somebody works on it; returns the bytes that it had."""
        with self._held(key) as mine:
            if not mine:
                return 0
            partial = self._partial(key)
            freed = _size(partial.path)
            partial.discard()
            return freed

    def sweep(self) -> None:
        """Remove what is too old, or of no use, or more than is kept."""
        parts = self.parts()
        old = time.time() - KEPT_SECONDS
        for number, part in enumerate(parts):
            if not part.sha256 or part.used < old or number < len(parts) - KEPT_FILES:
                with suppress(OSError):
                    self.remove(part.key)
        for path in self._root.glob("*.json"):
            if not path.with_suffix(".part").exists():
                with suppress(OSError):
                    self.remove(path.stem)

    def _partial(self, key: str) -> Partial:
        return Partial(self._root / f"{key}.part", self._root / f"{key}.json")

    def _held(self, key: str) -> AbstractContextManager[bool]:
        return held(self._root / f"{key}.lock", wait=False)


def _key(address: str, sha256: str) -> str:
    return hashlib.sha256(f"{address}\n{sha256}".encode("utf-8", "surrogateescape")).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    except OSError:
        return 0


def _read(path: Path) -> PartialRecord | None:
    try:
        with path.open("rb") as stream:
            found = json.loads(stream.read(_RECORD_BYTES))
        sha256, version, size = found["sha256"], found["version"], found["size"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    if not (isinstance(sha256, str) and SHA256_HEX.fullmatch(sha256)):
        return None
    if not (isinstance(version, str) and _VERSION.fullmatch(version)):
        return None
    if size is not None and not (type(size) is int and size > 0):
        return None
    return PartialRecord(sha256, version, size)
