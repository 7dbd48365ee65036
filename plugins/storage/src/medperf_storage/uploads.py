"""What uploads share: a file that is read once and hashed meanwhile, and bodies that tell how far they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from medperf_core.errors import TransferError
from medperf_core.plugin import CancelToken
from medperf_core.plugin.storage import PutRequest

PIECE = 1 << 18
_POLL = 0.1


class StoppedError(Exception):
    """Nothing more is to be sent; raised to whoever reads a body."""


class Source:
    """The file to upload, read once and in order. Its last bytes come only if it is what the request says."""

    def __init__(self, request: PutRequest) -> None:
        self._request = request
        self._digest = hashlib.sha256()
        self._left = request.size
        self._stream = _open(request.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stream)

    def read(self, most: int) -> bytes:
        """The next bytes, ``most`` of them if there are so many; b"" at the end.

        Raises:
            TransferError: the file is not the one that was asked for, or cannot be read.
        """
        wanted = min(most, self._left)
        data = self._take(wanted)
        if len(data) < wanted:
            raise self._changed()
        self._left -= len(data)
        self._digest.update(data)
        if not self._left and (self._take(1) or self._digest.hexdigest() != self._request.sha256.lower()):
            raise self._changed()
        return data

    @property
    def digest(self) -> str:
        """SHA-256 of what was handed out so far, hexadecimal."""
        return self._digest.copy().hexdigest()

    def again(self, start: int, most: int) -> bytes:
        """Bytes that were handed out before."""
        try:
            return os.pread(self._stream, most, start)
        except OSError as error:
            raise self._unreadable(error) from None

    def _take(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                data = os.read(self._stream, count)
            except OSError as error:
                raise self._unreadable(error) from None
            if not data:
                break
            parts.append(data)
            count -= len(data)
        return b"".join(parts)

    def _changed(self) -> TransferError:
        return TransferError(
            f"The file {self._request.path} is not what was to be uploaded: it does not have {self._request.size} "
            f"bytes with SHA-256 {self._request.sha256}. Nothing was stored.",
            hint="It was changed meanwhile; start again from the beginning.",
        )

    def _unreadable(self, error: OSError) -> TransferError:
        return TransferError(
            f"The file {self._request.path} cannot be read: {error.strerror}.", hint="Check the disk and permissions."
        )


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TransferError(
            f"The file {path} cannot be read: {error.strerror}.", hint="Check the path and its permissions."
        ) from None


class Sent:
    """How many bytes of a file are sent, counted once however often they have to be sent. Safe to use from threads."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes = on_bytes
        self._parts: dict[int, int] = {}
        self._told = 0
        self._lock = threading.Lock()

    def reached(self, part: int, count: int) -> None:
        """``count`` bytes of a part are sent."""
        with self._lock:
            self._parts[part] = max(self._parts.get(part, 0), count)

    def tell(self) -> None:
        """Tell how many came since the last time. Not from several threads; raises what the listener raises."""
        with self._lock:
            total = sum(self._parts.values())
        if total > self._told:
            count, self._told = total - self._told, total
            self._on_bytes(count)


class Body:
    """Bytes that are sent in pieces. They are counted before they leave, so what is cancelled is never sent whole.

    Args:
        part: number under which ``sent`` counts them.
        stop: once it is set, sending ends.
        telling: whether to tell how far it is; only in a thread that may.
        before: what goes before the bytes of the file.
        after: what goes behind them.
    """

    def __init__(
        self,
        data: bytes,
        sent: Sent,
        *,
        part: int = 0,
        stop: CancelToken | None = None,
        telling: bool = False,
        before: bytes = b"",
        after: bytes = b"",
    ) -> None:
        self._data = memoryview(data)
        self._position = 0
        self._part = part
        self._sent = sent
        self._stop = stop
        self._telling = telling
        self._before = before
        self._after = after
        self._size = len(before) + len(data) + len(after)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        while data := self.read(PIECE):
            yield data

    def rewind(self) -> None:
        """Begin again, for a request that is sent once more."""
        self._position = 0

    def read(self, most: int = -1) -> bytes | memoryview:
        """The next piece."""
        if self._stop is not None and self._stop.cancelled:
            raise StoppedError
        start = self._position
        self._position = end = self._size if most < 0 else min(start + most, self._size)
        in_file = end - len(self._before)
        self._sent.reached(self._part, min(max(in_file, 0), len(self._data)))
        if self._telling:
            self._sent.tell()
        if not self._before and not self._after:
            return self._data[start:end]
        return b"".join(self._spans(start, end))

    def _spans(self, start: int, end: int) -> Iterator[bytes | memoryview]:
        for each in (self._before, self._data, self._after):
            if start < len(each) and end > 0:
                yield each[max(start, 0) : end]
            start -= len(each)
            end -= len(each)


class Memory:
    """Bytes of files that one store holds at once while it uploads. Safe to use from threads."""

    def __init__(self, most: int = 64 << 20) -> None:
        self._most = most
        self._held = 0
        self._free = threading.Condition()

    def take(self, count: int, meanwhile: Callable[[], None]) -> None:
        """Wait until there is room. More than there is at all waits until nothing is held.

        Args:
            meanwhile: is called now and then; what it raises ends the waiting.
        """
        with self._free:
            while self._held and self._held + count > self._most:
                if not self._free.wait(_POLL):
                    meanwhile()
            self._held += count

    def give(self, count: int) -> None:
        """Give back what was taken."""
        with self._free:
            self._held -= count
            self._free.notify_all()

    @contextlib.contextmanager
    def held(self, count: int, cancel: CancelToken) -> Iterator[None]:
        """Hold as much for a while."""
        self.take(count, cancel.raise_if_cancelled)
        try:
            yield
        finally:
            self.give(count)
