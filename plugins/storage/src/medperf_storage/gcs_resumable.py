"""Uploads a large file to Google Cloud Storage: https://cloud.google.com/storage/docs/performing-resumable-uploads

The file is at its address only when its last byte was taken. After a cut, the server is asked how far it got.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from medperf_core.errors import TransferError
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.object_http import Passing, Refusal
from medperf_storage.objects import taken
from medperf_storage.uploads import Sent, Source

if TYPE_CHECKING:
    from medperf_storage.gcs import GcsObject

PIECE = 1 << 18
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")


class _Rest:
    """The file from one byte on, as the body of a request; tells how far it is, and ends when it is told to."""

    def __init__(self, upload: Resumable, start: int) -> None:
        self._upload = upload
        self._position = start

    def __len__(self) -> int:
        return self._upload.size - self._position

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(PIECE):
            yield data

    def read(self, most: int = PIECE) -> bytes:
        data = self._upload.bytes_at(self._position, most)
        self._position += len(data)
        return data


class Resumable:
    """One upload of one file."""

    def __init__(self, remote: GcsObject, request: PutRequest, source: Source, on_bytes: Callable[[int], None]) -> None:
        self._remote = remote
        self._source = source
        self._sent = Sent(on_bytes)
        self._read = 0
        self._what = f"{remote.url} could not be uploaded"
        self._error: BaseException | None = None
        self.size = request.size

    def run(self) -> Stored:
        """Send all of it."""
        connections = self._remote.connections
        if connections.patiently(self._what, self._remote.look) is not None:
            raise taken(self._remote.url)
        session = connections.patiently(self._what, self._begin)
        try:
            stored = self._send(session)
        except BaseException:
            with contextlib.suppress(Passing, Refusal, TransferError):
                connections.reply(self._remote.call("DELETE", session))
            raise
        if stored.size != self.size:
            raise self._remote.strange()
        return stored

    def bytes_at(self, position: int, most: int) -> bytes:
        """Bytes of the file; those that were not read yet are hashed. An error is kept, as libraries would wrap it."""
        try:
            self._remote.connections.context.cancel.raise_if_cancelled()
            if position < self._read:
                return self._source.again(position, min(most, self._read - position))
            data = self._source.read(most)
            self._read += len(data)
            self._sent.reached(0, self._read)
            self._sent.tell()  # before it leaves, so what is cancelled is never sent whole
            return data
        except BaseException as error:
            self._error = error
            raise

    def _begin(self) -> str:
        address = self._remote.upload_address("resumable")
        call = self._remote.call("POST", address, {"X-Upload-Content-Length": str(self.size)})
        _, headers = self._remote.connections.reply(call)
        session = headers.get("location", "")
        # The login is sent there, so it has to be the server that was asked.
        if _server(session) != _server(address) or not session.isprintable():
            raise self._remote.strange()
        return session

    def _send(self, session: str) -> Stored:
        connections = self._remote.connections
        position = failures = 0
        while True:
            try:
                if failures:
                    found = self._progress(session)
                    if isinstance(found, Stored):
                        return found
                    failures = 1 if found > position else failures
                    position = found
                headers = {"Content-Range": f"bytes {position}-{self.size - 1}/{self.size}"}
                body = _Rest(self, position)
                with connections.answer(self._remote.call("PUT", session, headers, body)) as response:
                    if response.status_code != 308:
                        return self._remote.stored(b"".join(connections.pieces(response, 1 << 20)))
                raise Passing("the server took only a part")
            except Passing as failure:
                if self._error is not None:
                    raise self._error from None
                failures += 1
                connections.rest(self._what, failure, failures)
            except Exception:
                if self._error is not None:
                    raise self._error from None
                raise

    def _progress(self, session: str) -> int | Stored:
        """How many bytes the server has, or what it made of them if it has them all."""
        connections = self._remote.connections
        call = self._remote.call("PUT", session, {"Content-Range": f"bytes */{self.size}"})
        with connections.answer(call) as response:
            data = b"".join(connections.pieces(response, 1 << 20))
            if response.status_code != 308:
                return self._remote.stored(data)
            found = _RANGE.fullmatch(response.headers.get("Range", ""))
            return min(int(found[1]) + 1, self._read) if found else 0


def _server(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None
