"""A task's output: written to its log file, cut at a limit, its last lines kept, each line told as an event."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from medperf_core.plugin.events import LINE_LIMIT, Event, TaskLog
from medperf_core.plugin.runner import TAIL_LINES

LOG_LIMIT = 64 << 20
"""Bytes of a task's log file; output beyond that is read and counted but not kept."""


class TaskLogWriter:
    """Takes a task's raw output in pieces of any size. Use it as a context manager; memory stays bounded."""

    def __init__(self, path: Path, task: str, emit: Callable[[Event], None], limit: int = LOG_LIMIT) -> None:
        self._path, self._task, self._emit, self._limit = path, task, emit, limit
        self._partial = b""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.bytes = 0
        self.truncated = False

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._partial:
            self._line(self._partial)
            self._partial = b""
        try:
            self._file.close()
        except OSError:
            self.truncated = True

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines so far."""
        return tuple(self._tail)

    def feed(self, data: bytes) -> None:
        """Take the next piece of output."""
        room = 0 if self.truncated else self._limit - self.bytes
        self.bytes += len(data)
        try:
            if room > 0:
                self._file.write(data[:room])
                self._file.flush()
        except OSError:  # a full disk must not stop the task's output from being read
            room = 0
        self.truncated = self.truncated or len(data) > room
        *lines, rest = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(rest) > LINE_LIMIT:  # a line without end is told in pieces
            self._line(rest)
            rest = b""
        self._partial = rest

    def _line(self, raw: bytes) -> None:
        text = raw[:LINE_LIMIT].decode("utf-8", "replace").rstrip("\r")
        line = "".join(char if char.isprintable() or char == "\t" else "�" for char in text)
        self._tail.append(line)
        self._emit(TaskLog(self._task, line))
