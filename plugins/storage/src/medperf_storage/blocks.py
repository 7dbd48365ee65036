"""The rest of a large file through several connections at once, its bytes handed over in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs
import urllib3

from medperf_core.errors import TransferError
from medperf_storage.retrying import Limits, Passing, Patience

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Response

    from medperf_core.plugin import BackendContext
    from medperf_storage.sending import Sender

CHUNK = 1 << 18
"""Bytes that are read at once."""

FAILED = "could not be fetched"
MAX_FAILURES = 200
"""Of one fetch; and one more for each MiB that came."""

CANCEL_SECONDS = 0.1
CLOSE_SECONDS = 2.0


class PartsError(Exception):
    """It does not go on this way; what was handed over is good.

    Attributes:
        cause: what went wrong. ``Passing`` if everything was tried as often as it may be.
    """

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@attrs.frozen
class Plan:
    """What is fetched, and how.

    Attributes:
        ask: gives an answer, not read yet, that begins with the byte of its first argument and ends before that of its
            second one, or earlier. Called by several threads. Raises Passing if it may go well next time.
        shown: address of the file, for messages.
        size: of the file.
        block: bytes that are asked for at once.
        window: blocks that are on their way or wait for an earlier one; so much memory it takes at most.
        connections: at most.
    """

    ask: Callable[[int, int], Response]
    shown: str
    size: int
    block: int
    window: int
    connections: int


@attrs.define(eq=False)
class _Block:
    """A part of the file.

    Attributes:
        first: offset of the next byte to ask for.
        end: offset behind its last byte.
        pieces: came and was not handed over yet.
    """

    first: int
    end: int
    pieces: deque[bytes] = attrs.field(factory=deque)


class _OverError(Exception):
    """Nobody waits for this thread's bytes any more."""


class Blocks:
    """Iterating gives the bytes from ``start`` on in order. To be closed in any case.

    A connection that breaks goes on where it was. One that the server does not give any bytes twice is given up as
    long as there are others: many servers allow few connections.

    Raises (while iterating):
        PartsError: it does not go on this way.
        CancelledError: the work is no longer wanted.
    """

    def __init__(self, plan: Plan, sender: Sender, limits: Limits, context: BackendContext, start: int) -> None:
        self._plan = plan
        self._sender = sender
        self._limits = limits
        self._context = context
        self._stop = context.cancel.child()
        self._next = start
        self._came = 0
        self._window: deque[_Block] = deque()
        self._given_back: deque[_Block] = deque()
        self._failure: Exception | None = None
        self._failures = 0
        self._changed = threading.Condition()
        count = min(plan.connections, -(-(plan.size - start) // plan.block))
        self._threads = [threading.Thread(target=self._work, name="fetching", daemon=True) for _ in range(count)]
        self._working = count
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[bytes]:
        while (data := self._take()) is not None:
            yield data

    def close(self) -> None:
        """End all connections."""
        with self._changed:
            self._stop.cancel()
            self._changed.notify_all()
        end = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))

    def _take(self) -> bytes | None:
        """The next bytes in order; None at the end."""
        with self._changed:
            while True:
                self._context.cancel.raise_if_cancelled()
                while self._window and not self._window[0].pieces and self._window[0].first == self._window[0].end:
                    self._window.popleft()
                    self._changed.notify_all()
                if self._window and self._window[0].pieces:
                    return self._window[0].pieces.popleft()
                if self._failure is not None:
                    raise PartsError(self._failure)
                if not self._window and self._next == self._plan.size:
                    return None
                self._changed.wait(CANCEL_SECONDS)

    def _work(self) -> None:
        failure = None
        try:
            with self._sender.watched(self._check_wanted):
                while (block := self._assigned()) is not None:
                    if not self._finished(block):
                        return
        except _OverError:
            return
        except Exception as error:
            failure = error
        finally:
            with self._changed:
                if failure is not None and self._failure is None:
                    self._failure = failure
                    self._stop.cancel()
                self._changed.notify_all()

    def _check_wanted(self) -> None:
        if self._stop.cancelled:
            raise _OverError

    def _assigned(self) -> _Block | None:
        """A block to fetch; None once there will be no more."""
        with self._changed:
            while not self._stop.cancelled:
                if self._given_back:
                    return self._given_back.popleft()
                if self._next < self._plan.size and len(self._window) < self._plan.window:
                    block = _Block(self._next, min(self._next + self._plan.block, self._plan.size))
                    self._next = block.end
                    self._window.append(block)
                    return block
                if self._next == self._plan.size and not self._window:
                    return None
                self._changed.wait(CANCEL_SECONDS)
        return None

    def _finished(self, block: _Block) -> bool:
        """Fetch a block; false if this connection is given up, and the block left to the others."""
        # Without a pause at first: that a server closes a connection is no reason to wait.
        patience = Patience(self._limits, self._context, f"{self._plan.shown} {FAILED}", self._stop, free=1)
        while block.first < block.end:
            self._check_wanted()
            before = block.first
            try:
                with self._plan.ask(block.first, block.end) as response:
                    self._read(block, response)
            except Passing as failure:
                more = patience.count(progressed=block.first > before)
                with self._changed:
                    self._failures += 1
                    if block.first == before and patience.failures > 1 and self._working > 1:
                        self._working -= 1
                        self._given_back.append(block)
                        return False
                    if not more or self._failures > MAX_FAILURES + (self._came >> 20):
                        raise
                patience.rest(failure)
        return True

    def _read(self, block: _Block, response: Response) -> None:
        while not self._stop.cancelled:
            try:
                data = response.read1(CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise self._sender.failure(error, self._plan.shown, FAILED) from None
            if not data:
                break
            with self._changed:
                if block.first + len(data) > block.end:
                    raise TransferError(
                        f"{self._plan.shown} {FAILED}: the server sent more than it was asked for.",
                        hint="The server or a proxy errs.",
                    )
                block.pieces.append(data)
                block.first += len(data)
                self._came += len(data)
                self._changed.notify_all()
        if block.first < block.end:
            self._check_wanted()
            raise Passing(f"the answer was cut short at byte {block.first} of {self._plan.size}")
