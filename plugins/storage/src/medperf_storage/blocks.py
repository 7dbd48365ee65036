"""The rest of a large file through several connections at once, its bytes handed over in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import attrs
import urllib3

from medperf_core.errors import MedperfError
from medperf_storage.asking import Asker, Passing, Target
from medperf_storage.ranges import asking_for, part_size

if TYPE_CHECKING:
    from medperf_core.plugin import CancelToken
    from medperf_storage.addresses import GuardedAdapter
    from medperf_storage.settings import HttpSettings

BLOCK = 4 << 20
WINDOW = 8
"""Blocks that are on their way or wait for an earlier one; so much memory it takes at most."""
CHUNK = 1 << 17
MAX_FAILURES = 200
CANCEL_SECONDS = 0.1
CLOSE_SECONDS = 2.0


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


class Blocks:
    """Iterating gives the bytes from ``start`` to ``size`` in order. To be closed in any case.

    A connection that breaks goes on where it was. One that the server does not give any bytes twice is given up as
    long as there are others: many servers allow few connections.

    Raises (while iterating):
        Passing: it does not go on this way; what was handed over is good.
        CancelledError: the work is no longer wanted.
    """

    def __init__(
        self,
        asker: Asker,
        settings: HttpSettings,
        cancel: CancelToken,
        target: Target,
        version: str,
        start: int,
        size: int,
    ) -> None:
        self._asker = asker
        self._settings = settings
        self._cancel = cancel
        self._target = target
        self._version = version
        self._size = size
        self._next = start
        self._window: deque[_Block] = deque()
        self._given_back: deque[_Block] = deque()
        self._failure: Passing | None = None
        self._failures = 0
        self._over = False
        self._changed = threading.Condition()
        self._open: set[urllib3.HTTPResponse] = set()
        self._threads = [
            threading.Thread(target=self._work, name="fetching", daemon=True) for _ in range(settings.connections)
        ]
        self._working = len(self._threads)
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[bytes]:
        while (data := self._take()) is not None:
            yield data

    def close(self) -> None:
        """End all connections."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
            still_open = list(self._open)
        for body in still_open:
            with suppress(ValueError, RuntimeError, OSError):
                body.shutdown()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)

    def _take(self) -> bytes | None:
        """The next bytes in order; None at the end."""
        with self._changed:
            while True:
                self._cancel.raise_if_cancelled()
                while self._window and not self._window[0].pieces and self._window[0].first == self._window[0].end:
                    self._window.popleft()
                    self._changed.notify_all()
                if self._window and self._window[0].pieces:
                    return self._window[0].pieces.popleft()
                if self._failure is not None:
                    raise self._failure
                if not self._window and self._next == self._size:
                    return None
                self._changed.wait(CANCEL_SECONDS)

    def _work(self) -> None:
        failure = None
        try:
            with closing(self._asker.adapter(self._target)) as adapter:
                while (block := self._assigned()) is not None:
                    if not self._finished(block, adapter):
                        return
        except Passing as error:
            failure = error
        except MedperfError as error:
            # Such as an address that is no longer good: a new request from the start tells, or leads elsewhere.
            failure = Passing(error.message.rstrip("."))
        except Exception as error:
            failure = Passing(f"one of several connections failed ({type(error).__name__})")
        finally:
            with self._changed:
                if failure is not None and self._failure is None:
                    self._failure = failure
                    self._over = True
                self._changed.notify_all()

    def _assigned(self) -> _Block | None:
        """A block to fetch; None once there will be no more."""
        with self._changed:
            while not self._over:
                if self._given_back:
                    return self._given_back.popleft()
                if self._next < self._size and len(self._window) < WINDOW:
                    block = _Block(self._next, min(self._next + BLOCK, self._size))
                    self._next = block.end
                    self._window.append(block)
                    return block
                if self._next == self._size and not self._window:
                    return None
                self._changed.wait(CANCEL_SECONDS)
        return None

    def _finished(self, block: _Block, adapter: GuardedAdapter) -> bool:
        """Fetch a block; false if this connection is given up, and the block left to the others."""
        tries = 0
        while block.first < block.end and not self._over:
            before = block.first
            try:
                self._fetch(block, adapter)
                continue
            except Passing as failure:
                tries = 1 if block.first > before else tries + 1
                with self._changed:
                    self._failures += 1
                    if self._over:
                        return False
                    if block.first == before and tries > 1 and self._working > 1:
                        self._working -= 1
                        self._given_back.append(block)
                        return False
                    if tries >= self._settings.attempts or self._failures > MAX_FAILURES:
                        raise
                # A server may close a connection between two requests, which is no reason to wait.
                pause = max(self._settings.pause * 2.0 ** (tries - 2) if tries > 1 else 0.0, failure.after)
            with self._changed:
                self._changed.wait_for(lambda: self._over, pause)
        return not self._over

    def _fetch(self, block: _Block, adapter: GuardedAdapter) -> None:
        headers = asking_for(self._version, block.first, block.end - 1)
        with closing(self._asker.ask(adapter, self._target, headers)) as response:
            if response.status_code != 206:
                self._asker.check_whole(response, self._target)
                raise MedperfError("the server sends the whole file instead of parts")
            self._asker.check_encoding(response, self._target)
            if part_size(response.headers, self._version, block.first, block.end - 1, self._size) is None:
                raise MedperfError("the server sends other parts than it was asked for")
            body: urllib3.HTTPResponse = response.raw
            with self._changed:
                self._open.add(body)
            try:
                self._read(block, body)
            finally:
                with self._changed:
                    self._open.discard(body)

    def _read(self, block: _Block, body: urllib3.HTTPResponse) -> None:
        while not self._over:
            try:
                data = body.read1(CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._asker.failure(error, self._target) from None
            if not data:
                break
            with self._changed:
                if block.first + len(data) > block.end:
                    raise MedperfError("the server sends more than the part that it was asked for")
                block.pieces.append(data)
                block.first += len(data)
                self._changed.notify_all()
        if block.first < block.end:
            raise Passing("a part was cut short")
