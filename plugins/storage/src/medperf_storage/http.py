"""The store behind ``http:`` and ``https:`` addresses."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import attrs
import urllib3

from medperf_core.errors import ConfigurationError, MedperfError, TransferError
from medperf_core.plugin import FetchInfo, FetchRequest, Storage, StoragePromise
from medperf_storage.asking import Asker, Target
from medperf_storage.blocks import Blocks, PartsError, Plan
from medperf_storage.ranges import asking_for, is_version, part_size, strong_version, whole_size
from medperf_storage.retrying import Passing, Patience, check_limits

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Response

    from medperf_core.plugin import BackendContext, Sink
    from medperf_storage.settings import HttpSettings

CHUNK = 1 << 18  # larger pieces would come from fresh memory each time
MAX_PARALLEL = 8
MAX_CONNECTIONS = 1000
"""In one fetch; who breaks off that often does not want to send the file."""
BLOCK = 4 << 20
"""Bytes that are asked for at once, where there are several connections."""
WINDOW = 8
"""Blocks that may wait in memory."""
SLOW = 60 << 20
"""Bytes per second; a connection that brings less may be held back, and more of them may bring more."""
WATCHED_SECONDS = 2.0
"""Time spent waiting for bytes after which a connection is judged."""
WORTH_MORE = 64 << 20
"""With fewer bytes left, further connections do not pay."""


@attrs.define
class _Transfer:
    """What is known of one fetch.

    Attributes:
        start: where to ask.
        version: of the bytes that the sink has; "" if they cannot be gone on with.
        size: of the file; None if it is not known.
        resume: whether the server is still asked for parts.
        told: whether the sink knows size and version.
        alone: whether there is to be one connection only.
        joined: whether what the sink has came in more than one answer.
        begun: how often an answer began with the first byte.
        brought: bytes that the current attempt brought.
    """

    start: Target
    max_bytes: int
    version: str
    resume: bool
    size: int | None = None
    told: bool = False
    alone: bool = False
    joined: bool = False
    begun: int = 0
    brought: int = 0


class HttpStorage(Storage):
    """Fetches by GET with requests; see the README for its rules."""

    promises = frozenset(
        {
            StoragePromise.NETWORK,
            StoragePromise.LOCAL,
            StoragePromise.SIZE,
            StoragePromise.VERSION,
            StoragePromise.RETRIES,
            StoragePromise.RESUME,
        }
    )

    def __init__(self, settings: HttpSettings, context: BackendContext) -> None:
        check_limits(settings)
        if not 1 <= settings.connections <= MAX_PARALLEL:
            raise ConfigurationError(f"Between 1 and {MAX_PARALLEL} connections can fetch a file.")
        self._settings = settings
        self._context = context
        self._asker = Asker(settings, context, self.redact)
        self._place = threading.Lock()

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        start = self._asker.first(request.url, request.allow_local)
        shown = self.redact(request.url)
        self._context.require_network(f"fetching {shown}")
        version = request.version if sink.written and is_version(request.version) else ""
        transfer = _Transfer(
            start, request.max_bytes, version, resume=not request.whole, alone=self._settings.connections == 1
        )
        patience = Patience(self._settings, self._context, f"{shown} could not be fetched")
        attempts = 0
        while True:
            attempts += 1
            self._context.cancel.raise_if_cancelled()
            transfer.brought = 0
            try:
                return self._attempt(transfer, sink)
            except Passing as failure:
                # A cut connection is no failure as long as bytes come that need not come again.
                kept = bool(transfer.brought and transfer.version and transfer.resume)
                if not patience.count(progressed=kept, least=max(transfer.begun, 1)) or attempts >= MAX_CONNECTIONS:
                    raise patience.ended(failure) from None
                going_on = f"going on at byte {sink.written}" if self._goes_on(transfer, sink) else "trying again"
                patience.rest(failure, going_on)

    def _goes_on(self, transfer: _Transfer, sink: Sink) -> bool:
        return bool(transfer.resume and transfer.version and sink.written)

    def _attempt(self, transfer: _Transfer, sink: Sink) -> FetchInfo:
        going_on = self._goes_on(transfer, sink)
        headers = asking_for(transfer.version, sink.written) if going_on else {}
        response, target = self._asker.answer(transfer.start, headers)
        with response:
            fits = not going_on or self._prepare_part(response, target, transfer, sink)
            if fits:
                if not going_on or response.status != 206:
                    self._prepare_whole(response, target, transfer, sink)
                slow = self._receive(response, target, transfer, sink)
        if not fits:
            transfer.resume = False
            return self._attempt(transfer, sink)
        if slow and transfer.size is not None:
            try:
                self._receive_blocks(target, transfer.size, transfer, sink)
            finally:
                self._place.release()
        if transfer.size is not None and sink.written != transfer.size:
            raise Passing(f"the answer was cut short ({sink.written} of {transfer.size} bytes)")
        return FetchInfo(size=sink.written, version=transfer.version, joined=transfer.joined)

    def _prepare_part(self, response: Response, target: Target, transfer: _Transfer, sink: Sink) -> bool:
        """Whether the answer to a request for a part can be used: as that part, or as the whole of a file that is
        another one by now."""
        if response.status == 416:
            return False
        if response.status != 206:
            return True
        self._asker.check_encoding(response, target)
        size = part_size(response.headers, transfer.version, sink.written, size=transfer.size)
        if size is None:
            return False
        transfer.joined = True
        self._tell(size, target, transfer, sink)
        return True

    def _prepare_whole(self, response: Response, target: Target, transfer: _Transfer, sink: Sink) -> None:
        self._asker.check_whole(response, target)
        if transfer.told or sink.written:
            sink.restart()
        transfer.version, transfer.joined, transfer.told = strong_version(response.headers), False, False
        transfer.begun += 1
        self._tell(whole_size(response.headers), target, transfer, sink)

    def _tell(self, size: int | None, target: Target, transfer: _Transfer, sink: Sink) -> None:
        if size is not None and size > transfer.max_bytes:
            raise TransferError(
                f"{self.redact(target.url)} has {size} bytes; at most {transfer.max_bytes} are allowed.",
                hint="Ask its owner whether that is the right file.",
            )
        transfer.size = size
        if not transfer.told:
            sink.expect(size, transfer.version)
            transfer.told = True

    def _receive(self, response: Response, target: Target, transfer: _Transfer, sink: Sink) -> bool:
        """Hand over what comes, up to the end; true if it comes so slowly that further connections should help, for
        which the place is taken then."""
        more = self._may_open_more(response, transfer)
        waited, came = 0.0, 0
        while True:
            before = time.monotonic()
            try:
                # read1 returns what has come; read would wait for a whole chunk and make a slow server hard to cancel.
                data = response.read1(CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._asker.failure(error, target) from None
            waited += time.monotonic() - before
            if not data:
                break
            sink.write(data)
            self._context.cancel.raise_if_cancelled()
            transfer.brought += len(data)
            came += len(data)
            # The time that the sink takes does not count: more connections would not make the disk faster. What has
            # arrived already would come again, so it is waited until there is little of it.
            if waited >= WATCHED_SECONDS and len(data) < CHUNK:
                left = (transfer.size or 0) - sink.written
                # Only one fetch at a time holds blocks in memory.
                if more and came < SLOW * waited and left >= WORTH_MORE and self._place.acquire(blocking=False):
                    return True
                waited, came = 0.0, 0
        if transfer.size is None and not sink.written and "Transfer-Encoding" not in response.headers:
            # a connection that ends inside the headers looks like this, too
            raise Passing("the answer ended before the first byte")
        return False

    def _may_open_more(self, response: Response, transfer: _Transfer) -> bool:
        ranges = response.status == 206 or response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        by_etag = transfer.version.startswith('"')
        return ranges and by_etag and transfer.resume and not transfer.alone

    def _receive_blocks(self, target: Target, size: int, transfer: _Transfer, sink: Sink) -> None:
        """Hand over what is left through several connections.

        Raises:
            Passing: it does not go on in this way.
        """
        transfer.joined = transfer.alone = True  # if it ends early, what is left comes through one connection
        version = transfer.version

        def ask(first: int, end: int) -> Response:
            return self._asker.part(target, version, first, end, size)

        plan = Plan(ask, self.redact(target.url), size, BLOCK, WINDOW, self._settings.connections)
        blocks = Blocks(plan, self._asker.sender, self._settings, self._context, sink.written)
        with closing(blocks):
            try:
                for data in blocks:
                    sink.write(data)
                    transfer.brought += len(data)
            except PartsError as error:
                # Such as an address that is no longer good: a new request from the start tells, or leads elsewhere.
                raise _passing(error.cause) from None


def _passing(cause: Exception) -> Passing:
    if isinstance(cause, Passing):
        return cause
    if isinstance(cause, MedperfError):
        return Passing(cause.message.rstrip("."))
    return Passing(f"one of several connections failed ({type(cause).__name__})")
