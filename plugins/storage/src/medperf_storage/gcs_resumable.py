"""Uploads a large file to Google Cloud Storage: https://cloud.google.com/storage/docs/performing-resumable-uploads

The file is at its address only when its last byte was taken. After a cut, the server is asked how far it got.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.large_uploads import LargeUpload
from medperf_storage.object_http import Passing, Refusal
from medperf_storage.retrying import GivenUpError, Patience
from medperf_storage.sending import server_of
from medperf_storage.upload_notes import Begun, Note
from medperf_storage.uploads import Source

if TYPE_CHECKING:
    from medperf_storage.gcs import GcsObject

PIECE = 1 << 18
STEP = 8 << 20
"""Bytes that are read, hashed and noted before any of them leaves."""

MAX_REPLY = 1 << 20
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")
_SESSION = re.compile(r"https?://[!-~]{1,4000}", re.IGNORECASE)


class _Rest:
    """The file from one byte on, as the body of a request; tells how far it is, and ends when it is told to."""

    def __init__(self, upload: Resumable, start: int) -> None:
        self._upload = upload
        self._position = start

    def __len__(self) -> int:
        return self._upload.request.size - self._position

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(PIECE):
            yield data

    def read(self, most: int = PIECE) -> bytes:
        data = self._upload.bytes_at(self._position, most)
        self._position += len(data)
        return data


class Resumable(LargeUpload[int | Stored]):
    """One upload of one file. Its marks are the SHA-256 of all bytes before a position, noted before the last of them
    leave: so bytes that an earlier program sent are known to be those of the file."""

    remote: GcsObject
    scheme = "gs"
    gone = frozenset({404, 410, 499})

    def __init__(self, remote: GcsObject, request: PutRequest, source: Source, on_bytes: Callable[[int], None]) -> None:
        super().__init__(remote, request, source, on_bytes)
        self._note: Note | None = None
        self._read = 0
        self._step = b""
        self._error: BaseException | None = None

    def there(self, begun: Begun) -> int | Stored | None:
        if not self._is_session(begun.name):
            return None
        try:
            found = self.remote.connections.patiently(self.what, lambda: self._progress(begun.name, self.request.size))
        except Refusal:
            return None
        if isinstance(found, Stored):
            return found if found.size == self.request.size else None
        if found >= self.request.size:
            return None
        mark = min((each for each in begun.marks if each >= found), default=None) if found else 0
        if mark is None:
            return None
        while self._read < mark:
            self._next()
        known = not found or (self._read == mark and begun.marks[mark] == self.source.digest)
        return found if known else None

    def begin(self) -> Begun:
        address = self.remote.upload_address("resumable")
        headers = {"X-Upload-Content-Length": str(self.request.size), "Content-Type": "application/json"}
        metadata = self.remote.metadata(self.request)
        _, answer = self.remote.connections.patiently(
            self.what, lambda: self.remote.reply("POST", address, headers, metadata)
        )
        session = answer.get("location", "")
        if not self._is_session(session):
            raise self.remote.strange()
        return Begun(session, self.request.size, self.request.sha256.lower())

    def send(self, begun: Begun, note: Note, there: int | Stored | None) -> Stored:
        if isinstance(there, Stored):
            return there
        self._note = note
        try:
            stored = self._send(begun.name, there or 0)
        except GivenUpError:
            mine = None
            with contextlib.suppress(Passing, Refusal, GivenUpError):
                mine = self.remote.is_mine(self.request)
            if mine is None:
                raise
            return mine
        if stored.size != self.request.size:
            raise self.remote.strange()
        return stored

    def remove(self, begun: Begun) -> None:
        if self._is_session(begun.name):
            self.remote.reply("DELETE", begun.name)

    def bytes_at(self, position: int, most: int) -> bytes:
        """Bytes of the file. An error is kept, as libraries would wrap it."""
        try:
            self.remote.connections.context.cancel.raise_if_cancelled()
            if position == self._read:
                self._next()
            start = self._read - len(self._step)
            if position < start:
                return self.source.again(position, min(most, start - position))
            data = self._step[position - start : position - start + most]
            self.sent.reached(0, position + len(data))
            self.sent.tell()  # before it leaves, so what is cancelled is never sent whole
            return data
        except BaseException as error:
            self._error = error
            raise

    def _next(self) -> None:
        self.remote.connections.context.cancel.raise_if_cancelled()
        self._step = self.source.read(STEP)
        self._read += len(self._step)
        if self._note is not None and self._step:
            self._note.mark(self._read, self.source.digest)

    def _is_session(self, address: str) -> bool:
        """Whether it is one of the server that was asked: the login is sent there."""
        if not _SESSION.fullmatch(address) or "\\" in address:
            return False
        try:
            return server_of(address) == server_of(self.remote.address)
        except ValueError:
            return False

    def _send(self, session: str, position: int) -> Stored:
        connections = self.remote.connections
        patience = Patience(connections.limits, connections.context, self.what)
        size, unsure, progressed = self.request.size, False, False
        while True:
            try:
                if unsure:
                    found = self._progress(session, self._read)
                    if isinstance(found, Stored):
                        return found
                    progressed = progressed or found > position
                    position = found
                headers = {"Content-Range": f"bytes {position}-{size - 1}/{size}"}
                call = self.remote.call("PUT", session, headers, _Rest(self, position))
                with connections.answer(call, also=308) as response:
                    if response.status != 308:
                        return self.remote.stored(b"".join(connections.pieces(response, MAX_REPLY)))
                raise Passing("the server took only a part")
            except Passing as failure:
                if self._error is not None:
                    raise self._error from None
                patience.failed(failure, progressed=progressed)
                unsure, progressed = True, False
            except Refusal as refusal:
                if self._error is not None:
                    raise self._error from None
                if not self.remote.renew(call, refusal):
                    raise
                patience.failed(Passing(str(refusal)))  # it took nothing, so it need not be asked how much it has
            except Exception:
                if self._error is not None:
                    raise self._error from None
                raise

    def _progress(self, session: str, most: int) -> int | Stored:
        """How many bytes the server has, of ``most`` that it can have; or what it made of them if it has them all."""
        connections, size = self.remote.connections, self.request.size
        with self.remote.answer("PUT", session, {"Content-Range": f"bytes */{size}"}, also=308) as response:
            data = b"".join(connections.pieces(response, MAX_REPLY))
            if response.status != 308:
                return self.remote.stored(data)
            found = _RANGE.fullmatch(response.headers.get("Range", ""))
            return min(int(found[1]) + 1, most) if found else 0
