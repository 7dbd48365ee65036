"""Uploads a large file to S3 in parts: https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html

The file is at its address only when the last request is answered.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from medperf_core.errors import MedperfError, TransferError
from medperf_core.plugin.storage import Stored
from medperf_storage import s3_messages
from medperf_storage.large_uploads import LargeUpload
from medperf_storage.object_http import PASSING_CODES, Passing, Refusal
from medperf_storage.s3_messages import Part
from medperf_storage.s3_parts import MAX_PARTS, Parts
from medperf_storage.upload_notes import Begun, Note

if TYPE_CHECKING:
    from medperf_storage.s3 import S3Object

_ROUNDED = timedelta(seconds=2)
"""By how much the times that servers tell may be rounded."""


class Multipart(LargeUpload[Mapping[int, Part]]):
    """One upload of one file."""

    remote: S3Object
    scheme = "s3"
    gone = frozenset({404})

    def there(self, begun: Begun) -> Mapping[int, Part] | None:
        found: dict[int, Part] = {}
        after = 0
        while True:
            query = f"part-number-marker={after}&{_id(begun)}"
            try:
                answer, _ = self.remote.connections.patiently(self.what, partial(self.remote.reply, "GET", {}, query))
            except Refusal:
                return None
            more, following = s3_messages.parts(answer)
            found.update(more)
            if following <= after or len(found) > MAX_PARTS:
                return found
            after = following

    def begin(self) -> Begun:
        asked = time.monotonic()
        attempts = 0

        def ask() -> str:
            nonlocal attempts
            attempts += 1
            answer, _ = self.remote.reply("POST", self.remote.described(self.request), "uploads=")
            name = s3_messages.upload_id(answer)
            if not name:
                raise self.remote.strange("begin an upload in parts")
            return name

        name = self.remote.connections.patiently(self.what, ask)
        begun = Begun(name, self.request.size, self.request.sha256.lower())
        if attempts > 1:
            self._remove_twins(begun, timedelta(seconds=time.monotonic() - asked))
        return begun

    def send(self, begun: Begun, note: Note, there: Mapping[int, Part] | None) -> Stored:
        etags = Parts(self.remote, begun, note, self.source, self.sent, there or {}, self.what).send()
        self.remote.check_free(self.what)  # not all servers heed the condition below
        body = s3_messages.complete(etags)
        digest = hashlib.sha256(body).hexdigest()

        def complete() -> Stored:
            headers = {"If-None-Match": "*", "Content-Type": "application/xml"}
            answer, _ = self.remote.reply("POST", headers, _id(begun), body, digest)
            found = s3_messages.completed(answer)
            if found.error in PASSING_CODES:
                raise Passing(f"the server could not put the parts together ({found.error})")
            if found.error:
                raise Refusal(200, found.error, {})
            if not found.done:
                raise self.remote.strange("put the parts of an upload together")
            return Stored(self.request.size, found.etag) if found.etag else self._as_it_is()

        return self.remote.surely(self.what, self.request, complete)

    def _as_it_is(self) -> Stored:
        """What is there, where the server did not tell its ETag."""
        found = self.remote.seen(self.what)
        if found is not None and not found.is_of(self.request):
            raise TransferError(
                f"{self.remote.url} was uploaded, but is not there as it was sent.",
                hint="Look at what is there, remove it, and try again.",
            )
        return found.stored if found else Stored(self.request.size)

    def remove(self, begun: Begun) -> None:
        self.remote.reply("DELETE", {}, _id(begun))

    def _remove_twins(self, begun: Begun, ago: timedelta) -> None:
        """Remove the uploads that were begun by the same question when its answer was lost: those of the same key and
        the same moments. Times are compared as the server tells them."""
        key = self.remote.url.key
        with contextlib.suppress(Passing, Refusal, MedperfError):
            found = s3_messages.uploads(self.remote.ask_bucket(f"prefix={quote(key, safe='')}&uploads="))
            ours = [each for each in found if each.name == begun.name]
            for each in found:
                same = any(one.begun - ago - _ROUNDED <= each.begun <= one.begun + _ROUNDED for one in ours)
                if each.key == key and each.name != begun.name and same:
                    self.remove(Begun(each.name, begun.size, begun.sha256))


def _id(begun: Begun) -> str:
    return f"uploadId={quote(begun.name, safe='')}"
