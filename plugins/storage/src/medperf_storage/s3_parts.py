"""Sends the parts of a large file to S3, several at once."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from medperf_storage.s3_messages import Part, etag_of
from medperf_storage.upload_notes import Begun, Note
from medperf_storage.uploads import Body, Sent, Source

if TYPE_CHECKING:
    from medperf_storage.s3 import S3Object

PART = 8 << 20
MAX_PARTS = 10_000
_POLL = 0.1
_JOIN_SECONDS = 2.0
"""How long threads that were stopped are waited for. They send nothing more, and end at the latest when their
connections time out."""


def part_size(size: int) -> int:
    """Bytes of each part but the last one: as many MiB as it takes for a file not to have too many parts."""
    least = -(-size // MAX_PARTS)
    return max(PART, -(-least >> 20) << 20)


class Parts:
    """The parts of one upload.

    Args:
        there: parts that the server has already. Each of them is compared with the file, and not sent again if it was
            noted with the same SHA-256.
        what: for messages.
    """

    def __init__(
        self,
        remote: S3Object,
        begun: Begun,
        note: Note,
        source: Source,
        sent: Sent,
        there: Mapping[int, Part],
        what: str,
    ) -> None:
        self._remote = remote
        self._begun = begun
        self._note = note
        self._source = source
        self._sent = sent
        self._there = there
        self._what = what
        self._part = part_size(begun.size)
        self._cancel = remote.connections.context.cancel.child()
        self._todo: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, str] | BaseException] = queue.SimpleQueue()
        self._under_way = 0
        self._etags: dict[int, str] = {}

    def send(self) -> list[str]:
        """Send what is not there yet; the ETags of all parts in their order."""
        count = min(self._remote.connections.limits.parallel, -(-self._begun.size // self._part))
        # Not those of a pool, which a program waits for before it ends.
        threads = [threading.Thread(target=self._work, name="uploading", daemon=True) for _ in range(count)]
        for each in threads:
            each.start()
        end = None
        try:
            self._read(count)
        except BaseException:
            self._cancel.cancel()
            end = time.monotonic() + _JOIN_SECONDS
            raise
        finally:
            for _ in threads:
                self._todo.put(None)
            for each in threads:
                each.join(None if end is None else max(end - time.monotonic(), 0.0))
        return [self._etags[each] for each in sorted(self._etags)]

    def _read(self, at_once: int) -> None:
        left, number = self._begun.size, 0
        while left:
            count = min(self._part, left)
            self._remote.memory.take(count, self._look)
            try:
                data = self._source.read(count)
                left, number = left - count, number + 1
                if self._is_there(number, data):
                    self._etags[number] = self._there[number].etag
                    self._sent.reached(number, count)
                    self._remote.memory.give(count)
                else:
                    self._under_way += 1
                    self._todo.put((number, data))
            except BaseException:
                self._remote.memory.give(count)
                raise
            del data
            self._look()
            self._collect(at_once)
        self._collect(0)

    def _is_there(self, number: int, data: bytes) -> bool:
        found = self._there.get(number)
        if found is None or found.size != len(data):
            return False
        return self._begun.marks.get(number) == _mark(found.etag, hashlib.sha256(data).hexdigest())

    def _collect(self, most: int) -> None:
        """Wait until at most ``most`` parts are under way, telling how far they are."""
        while self._under_way > most:
            try:
                found = self._done.get(timeout=_POLL)
            except queue.Empty:
                self._look()
                continue
            self._under_way -= 1
            if isinstance(found, BaseException):
                raise found
            number, etag = found
            self._etags[number] = etag
            self._look()

    def _look(self) -> None:
        self._cancel.raise_if_cancelled()
        self._sent.tell()

    def _work(self) -> None:
        while (found := self._todo.get()) is not None:
            number, data = found
            del found
            size = len(data)
            try:
                self._done.put((number, self._send(number, data)))
            except BaseException as error:  # whoever collects raises it
                self._done.put(error)
            finally:
                del data
                self._remote.memory.give(size)

    def _send(self, number: int, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        query = f"partNumber={number}&uploadId={quote(self._begun.name, safe='')}"
        body = Body(data, self._sent, part=number, stop=self._cancel)

        def send() -> str:
            _, headers = self._remote.reply("PUT", {}, query, body, digest)
            etag = etag_of(headers.get("etag", ""))
            if not etag:
                raise self._remote.strange("take a part of an upload")
            return etag

        etag = self._remote.connections.patiently(self._what, send, self._cancel)
        self._note.mark(number, _mark(etag, digest))
        self._sent.reached(number, len(data))
        return etag


def _mark(etag: str, sha256: str) -> str:
    """What is noted of a part that the server took."""
    return f"{etag} {sha256}"
