"""Uploads a large file to S3 in parts: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html

The file is at its address only when the last request is answered. What was sent of an upload that fails is removed; of
one whose program was killed, when the same address is uploaded to again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from medperf_core.errors import TransferError
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.object_http import Passing, Refusal
from medperf_storage.objects import taken
from medperf_storage.uploads import Body, Sent, Source, StoppedError

if TYPE_CHECKING:
    from medperf_storage.s3 import S3Object

PART = 8 << 20
MAX_PARTS = 10_000
MEMORY = 64 << 20
"""Bytes of parts that are held at once, as far as two parts allow."""

_UPLOAD_ID = re.compile(rb"<UploadId>\s*([\x21-\x25\x27-\x3b\x3d-\x7e]{1,1024})\s*</UploadId>")
_ETAG = re.compile(r'"?[A-Za-z0-9._-]{1,128}"?')
_POLL = 0.1


class Multipart:
    """One upload of one file."""

    def __init__(self, remote: S3Object, request: PutRequest, source: Source, on_bytes: Callable[[int], None]) -> None:
        self._remote = remote
        self._request = request
        self._source = source
        self._sent = Sent(on_bytes)
        self._stop = threading.Event()
        self._what = f"{remote.url} could not be uploaded"
        # Whole MiB, so that part sizes are even for every server.
        self._part = max(PART, -(-request.size // MAX_PARTS + (1 << 20) - 1) >> 20 << 20)
        name = hashlib.sha256(f"{remote.address}".encode()).hexdigest()
        self._note = Path(remote.connections.context.cache_dir, "s3", "uploads", f"{name}.json")

    def run(self) -> Stored:
        """Send all parts and complete the upload."""
        patiently = self._remote.connections.patiently
        if patiently(self._what, self._remote.look) is not None:
            raise taken(self._remote.url)
        self._forget_killed()
        upload = patiently(self._what, self._begin)
        try:
            self._write_note(upload)
            etags = self._send_parts(upload)
            if patiently(self._what, self._remote.look) is not None:  # not all servers heed the condition below
                raise taken(self._remote.url)
            stored = self._complete(upload, etags)
        except BaseException:
            self._abort(upload)
            raise
        self._note.unlink(missing_ok=True)
        return stored

    def _begin(self) -> str:
        data, _ = self._remote.reply("POST", {"Content-Type": "application/octet-stream"}, "uploads=")
        found = _UPLOAD_ID.search(data)
        if found is None:
            raise self._strange("begin an upload in parts")
        return found[1].decode()

    def _send_parts(self, upload: str) -> list[str]:
        etags: dict[int, str] = {}
        cancel = self._remote.connections.context.cancel
        limits = self._remote.connections.limits
        at_once = max(1, min(limits.parallel, MEMORY // self._part))
        with ThreadPoolExecutor(at_once, "uploading") as pool:
            under_way: set[Future[tuple[int, str]]] = set()
            try:
                number = 0
                while data := self._source.read(self._part):
                    number += 1
                    under_way.add(pool.submit(self._send_part, upload, number, data))
                    del data
                    under_way = self._collect(under_way, etags, at_once)
                while under_way:
                    under_way = self._collect(under_way, etags, len(under_way) - 1)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        cancel.raise_if_cancelled()
        return [etags[each] for each in range(1, number + 1)]

    def _collect(
        self, under_way: set[Future[tuple[int, str]]], etags: dict[int, str], most: int
    ) -> set[Future[tuple[int, str]]]:
        """Wait until at most ``most`` parts are under way, telling how far they are."""
        while True:
            done, left = wait(under_way, timeout=_POLL if len(under_way) > most else 0, return_when=FIRST_COMPLETED)
            for each in done:
                number, etag = each.result()
                etags[number] = etag
            self._remote.connections.context.cancel.raise_if_cancelled()
            self._sent.tell()
            if len(left) <= most:
                return set(left)
            under_way = set(left)

    def _send_part(self, upload: str, number: int, data: bytes) -> tuple[int, str]:
        digest = hashlib.sha256(data).hexdigest()
        query = f"partNumber={number}&uploadId={quote(upload, safe='')}"

        def send() -> str:
            body = Body(data, self._sent, part=number, stop=self._stop)
            try:
                _, headers = self._remote.reply("PUT", {}, query, body, digest)
            except StoppedError:
                raise Passing("it was stopped") from None
            etag = headers.get("etag", "")
            if not _ETAG.fullmatch(etag):
                raise self._strange("take a part of an upload")
            return etag

        etag = self._remote.connections.patiently(self._what, send)
        self._sent.reached(number, len(data))
        return number, etag

    def _complete(self, upload: str, etags: list[str]) -> Stored:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            for number, etag in enumerate(etags, start=1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        digest = hashlib.sha256(body).hexdigest()
        attempts = 0

        def complete() -> None:
            nonlocal attempts
            attempts += 1
            try:
                data, _ = self._remote.reply(
                    "POST",
                    {"If-None-Match": "*", "Content-Type": "application/xml"},
                    f"uploadId={quote(upload, safe='')}",
                    body,
                    digest,
                )
            except Refusal as refusal:
                if refusal.status != 404 or attempts == 1:
                    raise
                return  # it was completed, and the answer was lost; the look below tells
            if b"<Error>" in data:  # after a 200, once the server took longer than it wanted
                raise Passing("the server could not put the parts together")

        self._remote.connections.patiently(self._what, complete)
        found = self._remote.connections.patiently(self._what, self._remote.look)
        if found is None or found.size != self._request.size:
            raise TransferError(
                f"{self._remote.url} was uploaded, but is not there as it was sent.",
                hint="Look at what is there, remove it, and try again.",
            )
        return found

    def _abort(self, upload: str) -> None:
        """Remove the parts. If that fails, the note stays, and the next upload tries again."""
        with contextlib.suppress(Passing, Refusal, TransferError):
            self._remote.reply("DELETE", {}, f"uploadId={quote(upload, safe='')}")
            self._note.unlink(missing_ok=True)

    def _write_note(self, upload: str) -> None:
        with contextlib.suppress(OSError):  # without it, only the parts of a killed program are not found again
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_text(json.dumps({"upload": upload}))

    def _forget_killed(self) -> None:
        try:
            upload = json.loads(self._note.read_text())["upload"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if isinstance(upload, str):
            self._abort(upload)

    def _strange(self, what: str) -> TransferError:
        return TransferError(
            f"{self._what}: the server's answer is not one of S3 when it has to {what}.",
            hint="Check the setting s3.endpoint and the proxy.",
        )
