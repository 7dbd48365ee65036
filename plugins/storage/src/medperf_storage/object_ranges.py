"""Fetches an object by ranges, several of a large one at once; their bytes reach the sink in order.

Every range is asked of the same version, so a file that changes half-way is an error. A broken connection goes on at
the byte where it broke.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from medperf_core.errors import TransferError
from medperf_core.plugin import FetchInfo, FetchRequest
from medperf_storage.blocks import Blocks, PartsError, Plan
from medperf_storage.object_http import Passing, Refusal
from medperf_storage.retrying import Patience, ended

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Response

    from medperf_core.plugin import Sink
    from medperf_storage.objects import Remote

BLOCK = 8 << 20
"""Bytes that are asked for at once."""

WINDOW = 6
"""Blocks that may wait in memory."""

WORTH_MORE = 64 << 20
"""With fewer bytes to come, one connection at a time is enough."""

PROGRESS = 1 << 16
"""Bytes that have to come between two failures for the second to count as the first one."""

_EVERYTHING = 1 << 62
_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_LENGTH = re.compile("[0-9]{1,19}")


class OtherVersionError(Exception):
    """What is there is not what the bytes that came before are of."""


class RangeFetch:
    """One fetch of one object."""

    def __init__(self, remote: Remote, request: FetchRequest, sink: Sink) -> None:
        self._remote = remote
        self._request = request
        self._sink = sink
        self._what = f"{remote.url} could not be fetched"
        self._connections = remote.connections
        self._block = _EVERYTHING if request.whole else BLOCK
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
        first = self._begin(start, version)
        if first is None:
            self._expect()
        else:
            with first:
                self._expect()
                try:
                    self._receive(start, first)
                except OtherVersionError:
                    raise self._replaced() from None
                except Refusal as refusal:
                    if self._remote.is_change(refusal):
                        raise self._replaced() from None
                    raise self._remote.words(refusal, "could not be fetched") from None
        return FetchInfo(size=self._size, version=self._version, joined=self._answers > 1 or start > 0)

    def _expect(self) -> None:
        if self._size > self._request.max_bytes:
            raise TransferError(
                f"{self._remote.url} has {self._size} bytes; at most {self._request.max_bytes} are allowed.",
                hint="Ask its owner whether that is the right file.",
            )
        self._sink.expect(self._size, self._version)

    def _replaced(self) -> TransferError:
        return TransferError(
            f"{self._remote.url} was replaced or removed while it was being fetched.",
            hint="Try again. If nobody was to change it, ask its owner.",
        )

    def _begin(self, start: int, version: str) -> Response | None:
        """The first answer, which tells the size and version; None if there are no bytes from ``start`` on."""

        def ask() -> Response | None:
            try:
                response = self._remote.open(start, start + self._block, version)
            except Refusal as refusal:
                if refusal.status == 416:
                    return None
                if version and self._remote.is_change(refusal):
                    raise OtherVersionError from None
                raise self._remote.words(refusal, "could not be fetched") from None
            try:
                self._size = self._size_of(response, start)
                self._version = self._version_of(response)
            except BaseException:
                response.close()
                raise
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
            response.close()
            raise OtherVersionError
        return response

    def _receive(self, start: int, first: Response) -> None:
        end = min(start + self._block, self._size)
        with ExitStack() as stack:
            rest = self._rest(stack, end)  # is on its way while the first answer is read
            for data in self._pieces(start, end, first):
                self._sink.write(data)
            while rest is None and end < self._size:
                start, end = end, min(end + BLOCK, self._size)
                rest = self._rest(stack, end)
                for data in self._pieces(start, end):
                    self._sink.write(data)
            for data in rest or ():
                self._sink.write(data)

    def _rest(self, stack: ExitStack, start: int) -> Iterator[bytes] | None:
        """What comes from ``start`` on through several connections; None if one is to be used."""
        parallel, place = self._connections.limits.parallel, self._connections.place
        if parallel == 1 or self._size - start + BLOCK < WORTH_MORE or not place.acquire(blocking=False):
            return None
        stack.callback(place.release)
        plan = Plan(self._ask, str(self._remote.url), self._size, BLOCK, WINDOW, parallel)
        blocks = Blocks(plan, self._connections.sender, self._connections.limits, self._connections.context, start)
        stack.enter_context(closing(blocks))
        return self._parts(blocks)

    def _parts(self, blocks: Blocks) -> Iterator[bytes]:
        try:
            yield from blocks
        except PartsError as error:
            if isinstance(error.cause, Passing):
                raise ended(self._what, error.cause, self._connections.limits.attempts) from None
            raise error.cause from None

    def _pieces(self, start: int, end: int, first: Response | None = None) -> Iterator[bytes]:
        """The bytes of a range, over as many connections as it takes."""
        position = mark = start
        patience: Patience | None = None
        while position < end:
            try:
                response, first = first or self._ask(position, end), None
                with response:
                    for data in self._connections.pieces(response, end - position, str(self._remote.url)):
                        position += len(data)
                        yield data
                if position < end:
                    raise Passing(f"the answer was cut short at byte {position} of {self._size}")
            except Passing as failure:
                if self._request.whole:
                    raise
                patience = patience or Patience(self._connections.limits, self._connections.context, self._what)
                patience.failed(failure, progressed=position - mark >= PROGRESS)
                mark = position

    def _ask(self, position: int, end: int) -> Response:
        """An answer that is of the same version as the first one."""
        response = self._remote.open(position, end, self._version)
        try:
            self._answers += 1
            if self._size_of(response, position) != self._size or self._version_of(response) != self._version:
                raise OtherVersionError
        except BaseException:
            response.close()
            raise
        return response

    def _version_of(self, response: Response) -> str:
        version = self._remote.version_of(response)
        if not version:
            raise Passing("the answer does not tell the version of the file")
        return version

    def _size_of(self, response: Response, position: int) -> int:
        """The size of the whole object, from an answer that has to begin at ``position``."""
        headers = response.headers
        # Google names what it unpacked on the way in a header of its own.
        for name in ("Content-Encoding", "X-Goog-Stored-Content-Encoding"):
            encoding = headers.get(name, "").strip().lower()
            if encoding not in ("", "identity", "aws-chunked"):
                raise TransferError(
                    f"{self._remote.url} is stored compressed ({name} {encoding[:40]!r}), so it is not clear which "
                    "bytes are the file.",
                    hint="Ask its owner to store it without Content-Encoding.",
                )
        if response.status == 200:
            length = headers.get("Content-Length", "")
            if not position and _LENGTH.fullmatch(length) and int(length) <= self._block:
                return int(length)
            raise TransferError(
                f"{self._remote.url} could not be fetched: the server does not give parts of a file.",
                hint="Check the endpoint and the proxy; the server of a bucket answers ranges.",
            )
        found = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            raise Passing("the headers of the answer were cut short or make no sense")
        first, last, size = (int(word) for word in found.groups())
        if first != position or not first <= last < size:
            raise Passing("the server gave another part than it was asked for")
        return size
