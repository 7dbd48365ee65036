"""Where a file's bytes go on their way into the cache: written, counted, hashed and shown in one pass."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from medperf_core.errors import TransferError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.events import Progress
from medperf_core.plugin.storage import FetchInfo
from medperf_core.site.partials import Partial, PartialRecord
from medperf_core.site.side_hash import PIECE, SideHash

RESERVE = 256 << 20
"""Bytes of the disk that a fetch leaves free, so that the site can still write its records."""

WORTH_KEEPING = 1 << 20
"""With fewer bytes, an interrupted fetch begins anew."""

PROGRESS_SECONDS = 0.2
WRITE_OUT_BYTES = 32 << 20
_HEAD = 512


class CacheSink:
    """Takes one file: writes it to ``path``, hashes and counts it, watches the limits, tells the progress.

    Args:
        shown: the redacted address, for messages.
        partial: what an interrupted fetch of the same file left at ``path``, and where what comes now is kept; None if
            nothing is.
        sha256: hexadecimal, as it is expected; only used with ``partial``.

    Attributes:
        resumed: whether there are bytes of an earlier fetch among what was taken.
        head: the first bytes.
    """

    def __init__(
        self,
        path: Path,
        shown: str,
        max_bytes: int,
        context: BackendContext,
        partial: Partial | None = None,
        sha256: str = "",
    ) -> None:
        self._path = path
        self._shown = shown
        self._max_bytes = max_bytes
        self._context = context
        self._partial = partial
        self._sha256 = sha256
        with writing(shown):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if partial else os.O_EXCL)
            self._stream = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
        self._told = 0.0
        self._spoiled = False
        self._begin()

    def _begin(self) -> None:
        self._digest = SideHash()
        self._written = 0
        self._on_its_way = 0
        self._expected: int | None = None
        self._version = ""
        self._noted = False
        self.resumed = False
        self.head = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._digest.close()
        with writing(self._shown):
            self._stream.close()

    def take_kept(self) -> str:
        """Go on from what an earlier fetch left; returns its version, "" if there is nothing to go on from.

        Raises:
            CancelledError: the work is no longer wanted.
        """
        if self._partial is None:
            return ""
        with writing(self._shown):
            size = os.fstat(self._stream.fileno()).st_size
            if not size:
                return ""
            record = self._partial.kept()
            if record is not None and record.size is not None:
                # At least one byte is left for the store, which so sees whether the file is still the same.
                size = min(size, record.size - 1)
            if record is None or not WORTH_KEEPING <= size <= self._max_bytes:
                self.restart()
                return ""
            self._stream.truncate(size)
            self._hash_kept(size)
        self._version, self._noted, self.resumed = record.version, True, True
        return record.version

    def _hash_kept(self, size: int) -> None:
        what = f"reading what is kept of {self._shown}"
        while self._written < size:
            self._context.cancel.raise_if_cancelled()
            data = self._stream.read(min(PIECE, size - self._written))
            if not data:
                break
            self._take(data)
            if self._is_time():
                self._context.emit(Progress(what, self._written, size))
        self._context.emit(Progress(what, self._written, self._written))
        self._on_its_way = self._written

    def keep(self) -> bool:
        """Called when the fetch was interrupted: whether a later one can go on from here. If not, nothing is left."""
        if self._partial is None:
            return False
        good = bool(self._version) and self._written >= WORTH_KEEPING and not self._spoiled
        try:
            if good:
                self._note()
        except OSError:
            good = False
        if not good:
            self._partial.discard()
        return good

    def _note(self) -> None:
        if self._partial is not None and not self._noted:
            self._partial.note(PartialRecord(self._sha256, self._version, self._expected))
            self._noted = True

    @property
    def noted(self) -> bool:
        """Whether what came is written down, so that a later fetch could go on from there."""
        return self._noted

    @property
    def written(self) -> int:
        return self._written

    @property
    def sha256(self) -> str:
        """Hexadecimal, of what was taken so far."""
        return self._digest.hexdigest()

    def expect(self, size: int | None, version: str = "") -> None:
        if self.resumed and version not in ("", self._version):
            raise self._spoil(
                f"{self._shown} was gone on with although it is another file by now.",
                "The plugin that serves such addresses is at fault; nothing was kept, so try again.",
            )
        self._expected = size
        self._version = version or self._version
        if size is None:
            return
        if size > self._max_bytes:
            raise self._too_large(f"has {size} bytes")
        free = shutil.disk_usage(self._path.parent).free
        if size - self._written + RESERVE > free:
            raise TransferError(
                f"{self._shown} has {size} bytes, but only {max(free - RESERVE, 0)} are free for it in the cache "
                f"({self._path.parent.parent}).",
                hint="Free some room on that disk, or keep the cache on a larger one.",
            )

    def write(self, data: bytes) -> None:
        self._context.cancel.raise_if_cancelled()
        total = self._written + len(data)
        if total > self._max_bytes:
            raise self._too_large("is larger")
        if self._expected is not None and total > self._expected:
            raise self._spoil(
                f"{self._shown} sent more than the {self._expected} bytes that it announced.",
                "The server or a proxy is at fault; try again later.",
            )
        self._take(data)
        try:
            with writing(self._shown):
                left = memoryview(data)
                while left:
                    left = left[self._stream.write(left) :]
                self._write_out()
                if self._version and self._written >= WORTH_KEEPING:
                    self._note()
        except TransferError:
            self._spoiled = True  # what is kept must not fill up a disk that is full
            raise
        self._tell(finished=False)

    def _take(self, data: bytes) -> None:
        if len(self.head) < _HEAD:
            self.head += data[: _HEAD - len(self.head)]
        self._digest.update(data)
        self._written += len(data)

    def restart(self) -> None:
        if self._partial is not None:
            with writing(self._shown):
                self._partial.forget()
        self._digest.close()
        with writing(self._shown):
            self._stream.seek(0)
            self._stream.truncate()
        self._begin()

    def finish(self, info: FetchInfo) -> None:
        """Make sure that all that was announced came."""
        for size in (self._expected, info.size):
            if size is not None and size != self._written:
                raise self._spoil(
                    f"{self._shown} was cut short: {self._written} of {size} bytes came.",
                    "Try again; nothing was kept.",
                )
        self._tell(finished=True)

    def _write_out(self) -> None:
        """Has the system begin to put on the disk what came, so that little is left to wait for at the end."""
        if self._written - self._on_its_way >= WRITE_OUT_BYTES:
            # "Not needed" starts the writing without waiting; what is not written yet stays in memory anyway.
            length = self._written - self._on_its_way
            os.posix_fadvise(self._stream.fileno(), self._on_its_way, length, os.POSIX_FADV_DONTNEED)
            self._on_its_way = self._written

    def _too_large(self, what: str) -> TransferError:
        return self._spoil(
            f"{self._shown} {what}; at most {self._max_bytes} are allowed.",
            "Ask its owner whether that is the right file.",
        )

    def _spoil(self, message: str, hint: str) -> TransferError:
        """An error after which nothing is kept."""
        self._spoiled = True
        return TransferError(message, hint=hint)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS:
            return False
        self._told = now
        return True

    def _tell(self, *, finished: bool) -> None:
        if self._is_time() or finished:
            self._context.emit(Progress(f"Fetching {self._shown}", self._written, self._expected))


@contextmanager
def writing(shown: str) -> Iterator[None]:
    """Turns errors of the disk into words."""
    try:
        yield
    except OSError as error:
        raise TransferError(
            f"{shown} could not be written to the cache: {error.strerror or error}.",
            hint="Check the free space and permissions of the cache; nothing was kept.",
        ) from error
