"""Fetches an object by ranges: several are on their way at once, and their bytes reach the sink in order.

Every range is asked of the same version, so a file that changes half-way is an error. A broken connection goes on at
the byte where it broke.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import requests

from medperf_core.errors import TransferError
from medperf_core.plugin import FetchInfo, FetchRequest
from medperf_storage.object_http import Passing, Refusal
from medperf_storage.objects import Remote

if TYPE_CHECKING:
    from medperf_core.plugin import Sink

BLOCK = 8 << 20
"""Bytes that are asked for at once."""

MAX_BLOCKS = 7
"""That may wait in memory."""

WORTH_MORE = 64 << 20
"""With fewer bytes to come, one connection at a time is enough."""

PROGRESS = 1 << 16
"""Bytes that have to come between two failures for the second to count as the first one."""

_EVERYTHING = 1 << 62
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LENGTH = re.compile("[0-9]{1,19}")
_WAIT = 0.2
_JOIN_SECONDS = 2.0


class OtherVersionError(Exception):
    """What is there is not what the bytes that came before are of."""


class Block:
    """A range on its way: a worker puts its bytes, the fetch takes them."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.came: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()


class RangeFetch:
    """One fetch of one object."""

    def __init__(self, remote: Remote, request: FetchRequest, sink: Sink) -> None:
        self._remote = remote
        self._request = request
        self._sink = sink
        self._what = f"{remote.url} could not be fetched"
        self._connections = remote.connections
        self._cancel = remote.connections.context.cancel
        self._block = _EVERYTHING if request.whole else BLOCK
        self._stop = threading.Event()
        self._open: set[requests.Response] = set()
        self._lock = threading.Lock()
        self._answers = 0
        self._size = 0
        self._version = ""

    def run(self) -> FetchInfo:
        """Hand all bytes to the sink."""
        if self._request.whole:
            return self._connections.patiently(self._what, self._again)
        if self._request.start and self._request.version:
            try:
                return self._fetch(self._request.start, self._request.version)
            except OtherVersionError:
                pass
        if self._sink.written:
            self._sink.restart()
        return self._from_the_first_byte()

    def _again(self) -> FetchInfo:
        """All in one answer, or in none."""
        if self._sink.written:
            self._sink.restart()
        self._answers = 0
        return self._from_the_first_byte()

    def _from_the_first_byte(self) -> FetchInfo:
        try:
            return self._fetch(0, "")
        except OtherVersionError:
            raise self._replaced() from None

    def _fetch(self, start: int, version: str) -> FetchInfo:
        """From one byte on.

        Raises:
            OtherVersionError: before any byte was handed over, what is there is not of ``version``.
        """
        with ExitStack() as stack:
            first = self._begin(stack, start, version)
            if self._size > self._request.max_bytes:
                raise TransferError(
                    f"{self._remote.url} has {self._size} bytes; at most {self._request.max_bytes} are allowed.",
                    hint="Ask its owner whether that is the right file.",
                )
            self._sink.expect(self._size, self._version)
            if first is not None:
                try:
                    self._receive(start, first)
                except OtherVersionError:
                    raise self._replaced() from None
                except Refusal as refusal:
                    if self._remote.is_change(refusal):
                        raise self._replaced() from None
                    raise self._remote.words(refusal, "could not be fetched") from None
        return FetchInfo(size=self._size, version=self._version, joined=self._answers > 1 or start > 0)

    def _replaced(self) -> TransferError:
        return TransferError(
            f"{self._remote.url} was replaced or removed while it was being fetched.",
            hint="Try again. If nobody was to change it, ask its owner.",
        )

    def _begin(self, stack: ExitStack, start: int, version: str) -> requests.Response | None:
        """The first answer, which tells the size and version; None if there are no bytes from ``start`` on."""

        def ask() -> requests.Response | None:
            try:
                response = stack.enter_context(self._remote.open(start, start + self._block, version))
            except Refusal as refusal:
                if refusal.status == 416:
                    return None
                if version and self._remote.is_change(refusal):
                    raise OtherVersionError from None
                raise self._remote.words(refusal, "could not be fetched") from None
            self._size = self._size_of(response, start)
            self._version = self._version_of(response)
            return response

        def look() -> None:
            try:
                found = self._remote.look()
            except Refusal as refusal:
                raise self._remote.words(refusal, "could not be fetched") from None
            if found is None or found.size != start or (start and found.version != version):
                raise OtherVersionError
            self._size, self._version = found.size, found.version

        response = self._connections.patiently(self._what, ask)
        if response is None:
            self._connections.patiently(self._what, look)
        elif start and self._version != version:
            raise OtherVersionError
        return response

    def _receive(self, start: int, first: requests.Response) -> None:
        end = min(start + self._block, self._size)
        blocks = [Block(each, min(each + BLOCK, self._size)) for each in range(end, self._size, BLOCK)]
        if self._size - start < WORTH_MORE:
            for data in self.pieces(start, end, first):
                self._sink.write(data)
            for block in blocks:
                for data in self.pieces(block.start, block.end):
                    self._sink.write(data)
            return
        parallel = min(self._connections.limits.parallel, len(blocks))
        with _Workers(self, parallel) as workers:
            todo, ahead = deque(blocks), deque[Block]()

            def ask_ahead() -> None:
                while todo and len(ahead) < min(parallel + 2, MAX_BLOCKS):
                    ahead.append(todo.popleft())
                    workers.ask(ahead[-1])

            ask_ahead()
            for data in self.pieces(start, end, first):
                self._sink.write(data)
            while ahead:
                for data in self._taken(ahead.popleft()):
                    self._sink.write(data)
                ask_ahead()

    def _taken(self, block: Block) -> Iterator[bytes]:
        while True:
            try:
                found = block.came.get(timeout=_WAIT)
            except queue.Empty:
                self._cancel.raise_if_cancelled()
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            yield found

    def pieces(self, start: int, end: int, first: requests.Response | None = None) -> Iterator[bytes]:
        """The bytes of a range, over as many connections as it takes."""
        position = mark = start
        failures = 0
        while position < end:
            try:
                with ExitStack() as stack:
                    response = first or stack.enter_context(self._remote.open(position, end, self._version))
                    first = None
                    self._check(response, position)
                    with self._watched(response):
                        for data in self._connections.pieces(response, end - position):
                            position += len(data)
                            yield data
                if position < end:
                    raise Passing(f"the answer was cut short at byte {position} of {self._size}")
            except Passing as failure:
                if self._stop.is_set():
                    return
                if self._request.whole:
                    raise
                failures = 1 if position - mark >= PROGRESS else failures + 1
                mark = position
                self._connections.rest(self._what, failure, failures)

    def _check(self, response: requests.Response, position: int) -> None:
        self._answers += 1
        if self._size_of(response, position) != self._size or self._version_of(response) != self._version:
            raise OtherVersionError

    def _size_of(self, response: requests.Response, position: int) -> int:
        """The size of the whole object, from an answer that has to begin at ``position``."""
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity", "aws-chunked"):
            raise TransferError(
                f"{self._remote.url} is stored compressed (Content-Encoding {encoding[:40]!r}), so it is not clear "
                "which bytes are the file.",
                hint="Ask its owner to store it without Content-Encoding.",
            )
        length = response.headers.get("Content-Length", "")
        if response.status_code == 200:
            if not position and _LENGTH.fullmatch(length) and int(length) <= self._block:
                return int(length)
            raise TransferError(
                f"{self._remote.url} could not be fetched: the server does not give parts of a file.",
                hint="Check the endpoint and the proxy; the server of a bucket answers ranges.",
            )
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None:
            raise Passing("the headers of the answer were cut short or make no sense")
        first, last, size = (int(word) for word in found.groups())
        if first != position or not first <= last < size:
            raise Passing("the server gave another part than it was asked for")
        return size

    def _version_of(self, response: requests.Response) -> str:
        version = self._remote.version_of(response)
        if not version:
            raise Passing("the answer does not tell the version of the file")
        return version

    @contextlib.contextmanager
    def _watched(self, response: requests.Response) -> Iterator[None]:
        with self._lock:
            self._open.add(response)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(response)

    @property
    def stopped(self) -> bool:
        """Whether nothing more is wanted."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Want nothing more, and end what is on its way."""
        self._stop.set()
        with self._lock:
            for response in self._open:
                with contextlib.suppress(ValueError, RuntimeError, OSError, AttributeError):
                    response.raw.shutdown()


class _Workers:
    """Threads that bring blocks. Leaving ends them."""

    def __init__(self, fetch: RangeFetch, count: int) -> None:
        self._fetch = fetch
        self._todo: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name="fetching", daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._fetch.stop()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS if kind is not None else None)

    def ask(self, block: Block) -> None:
        self._todo.put(block)

    def _work(self) -> None:
        while (block := self._todo.get()) is not None and not self._fetch.stopped:
            try:
                for data in self._fetch.pieces(block.start, block.end):
                    if self._fetch.stopped:
                        return
                    block.came.put(data)
                block.came.put(None)
            except BaseException as error:  # the fetch raises it
                block.came.put(error)
