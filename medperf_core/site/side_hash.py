"""SHA-256 in a thread of its own, beside whatever brings the bytes."""

from __future__ import annotations

import hashlib
import threading
from queue import Queue
from types import TracebackType
from typing import Self

PIECE = 1 << 20
"""Bytes that are gathered before the thread is woken; fewer than this in all are hashed without one."""

WAITING = 4
"""Pieces that may wait for the thread; then whoever brings more waits, so memory stays flat."""


class SideHash:
    """A running SHA-256. One thread brings the bytes; ``close``, or the end of a ``with`` block, ends the helper."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._gathered: list[bytes] = []
        self._size = 0
        self._queue: Queue[list[bytes] | None] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, data: bytes) -> None:
        """Hash these bytes too, sooner or later."""
        # What only looks like bytes could change before the thread comes to it.
        self._gathered.append(data if type(data) is bytes else bytes(data))
        self._size += len(data)
        if self._size >= PIECE:
            if self._queue is None:
                self._queue = Queue(WAITING)
                self._thread = threading.Thread(target=self._work, args=(self._queue,), name="hashing", daemon=True)
                self._thread.start()
            self._queue.put(self._gathered)
            self._gathered, self._size = [], 0

    def hexdigest(self) -> str:
        """Hexadecimal, of all that came so far; waits for the thread."""
        if self._queue is not None:
            self._queue.join()
        for data in self._gathered:
            self._digest.update(data)
        self._gathered, self._size = [], 0
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the thread; nothing may be brought after that."""
        if self._queue is not None and self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._queue = self._thread = None

    def _work(self, queue: Queue[list[bytes] | None]) -> None:
        while (pieces := queue.get()) is not None:
            for data in pieces:
                self._digest.update(data)
            queue.task_done()
