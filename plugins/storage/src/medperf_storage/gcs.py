"""The store behind ``gs:`` addresses: Google Cloud Storage by its JSON API.

https://cloud.google.com/storage/docs/json_api
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import requests

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.addresses import is_local
from medperf_storage.credentials_gs import Asker, find
from medperf_storage.object_http import Call, Connections, Refusal
from medperf_storage.object_urls import ObjectUrl, check_endpoint
from medperf_storage.objects import BucketStorage, Remote, taken
from medperf_storage.uploads import Body, Sent, Source

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_storage.object_settings import GcsSettings

ENDPOINT = "https://storage.googleapis.com"
SMALL = 8 << 20
"""Bytes up to which a file is uploaded in one request."""

_NUMBER = re.compile(r"[0-9]{1,20}")
_PROJECT = re.compile(r"[A-Za-z0-9.:_-]{1,100}")


def endpoint_of(settings: GcsSettings) -> str:
    """Where the settings or the environment say that the server is.

    Raises:
        ConfigurationError: that makes no sense.
    """
    if settings.user_project and not _PROJECT.fullmatch(settings.user_project):
        raise ConfigurationError("The setting gs.user_project is not the name of a project.")
    if settings.endpoint:
        return check_endpoint(settings.endpoint, "the setting gs.endpoint")
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator:
        return check_endpoint(emulator if "://" in emulator else f"http://{emulator}", "STORAGE_EMULATOR_HOST")
    return ENDPOINT


class GcsStorage(BucketStorage):
    """Fetches and uploads objects of Google Cloud Storage; see the README for its rules."""

    def __init__(self, settings: GcsSettings, context: BackendContext) -> None:
        self.context = context
        self._settings = settings
        self._endpoint = endpoint_of(settings)
        self._local = is_local(urlsplit(self._endpoint).hostname or "")
        self._connections = Connections(context, settings, local=self._local)
        self._askers: dict[str, Asker] = {}
        self._lock = threading.Lock()

    def public_url(self, url: str) -> str | None:
        address = self.address(url)
        found = f"{self._endpoint}/{address.bucket}/{address.quoted_key}"
        return found if found.startswith("https:") else None

    def remote(self, url: ObjectUrl) -> GcsObject:
        with self._lock:
            asker = self._askers.get(url.bucket)
            if asker is None:
                asker = self._askers[url.bucket] = find(url.bucket, self._settings, self.context)
        if asker.token is not None and self._endpoint.startswith("http:") and not self._local:
            raise ConfigurationError(
                "A login of Google is not sent over plain http to another machine, where everybody on the way could "
                "use it.",
                hint="Use an https endpoint, or set gs.anonymous.",
            )
        return GcsObject(url, self._connections, self._endpoint, asker, self._settings.user_project)


class GcsObject(Remote):
    """One object of Google Cloud Storage. Its version is its generation."""

    def __init__(
        self, url: ObjectUrl, connections: Connections, endpoint: str, asker: Asker, user_project: str | None
    ) -> None:
        super().__init__(url, connections)
        self._endpoint = endpoint
        self._asker = asker
        self._headers = {"x-goog-user-project": user_project} if user_project else {}
        self._bucket = f"storage/v1/b/{quote(url.bucket, safe='')}/o"

    @contextmanager
    def open(self, start: int, end: int, version: str) -> Iterator[requests.Response]:
        generation = version or self.url.version
        query = "?alt=media" + (f"&generation={quote(generation, safe='')}" if generation else "")
        call = self.call("GET", self._object + query, {"Range": f"bytes={start}-{end - 1}"})
        with self.connections.answer(call) as response:
            yield response

    def version_of(self, response: requests.Response) -> str:
        found = response.headers.get("x-goog-generation", "")
        return found if _NUMBER.fullmatch(found) else ""

    def look(self) -> Stored | None:
        query = f"?generation={self.url.version}" if self.url.version else ""
        try:
            data, _ = self.connections.reply(self.call("GET", self._object + query))
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise
        return self.stored(data)

    def stored(self, reply: bytes) -> Stored:
        """What the server says of an object, checked."""
        found = self._fields(reply)
        size, generation = str(found.get("size", "")), str(found.get("generation", ""))
        if not _NUMBER.fullmatch(size) or not _NUMBER.fullmatch(generation):
            raise self.strange()
        return Stored(int(size), generation)

    def is_change(self, refusal: Refusal) -> bool:
        return refusal.status in (404, 412)

    def words(self, refusal: Refusal, what: str) -> TransferError:
        if refusal.status == 412:
            return taken(self.url)
        hint = "Ask the bucket's owner, and check the setting gs.endpoint."
        if refusal.status == 404:
            hint = "Check bucket and key for typing errors, or ask its owner where the file is now."
        elif refusal.status in (400, 401, 403):
            hint = (
                f"It was asked for with {self._asker.source}."
                if self._asker.token
                else f"It was asked for anonymously: {self._asker.source}."
            )
            hint += " Ask the bucket's owner for access, or to let everybody read it."
        return TransferError(f"{self.url} {what}: {refusal}.", hint=hint)

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        with Source(request) as source:
            if request.size > SMALL:
                from medperf_storage.gcs_resumable import Resumable

                return Resumable(self, request, source, on_bytes).run()
            data = source.read(request.size)
        sent, attempts = Sent(on_bytes), 0
        boundary = request.sha256[:32]
        while boundary.encode() in data:
            boundary = hashlib.sha256(boundary.encode()).hexdigest()[:32]
        before = "\r\n".join(
            [
                f"--{boundary}\r\nContent-Type: application/json\r\n",
                json.dumps({"name": self.url.key}),
                f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n",
            ]
        ).encode()
        after = f"\r\n--{boundary}--\r\n".encode()
        content = before + data + after
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}

        def send() -> Stored:
            nonlocal attempts
            attempts += 1
            address = self.upload_address("multipart")
            try:
                body = Body(content, sent, telling=True, before=len(before), after=len(after))
                reply, _ = self.connections.reply(self.call("POST", address, headers, body))
            except Refusal as refusal:
                if refusal.status == 412 and attempts > 1:  # perhaps by ourselves, and the answer was lost
                    found = self._same(data)
                    if found is not None:
                        return found
                raise
            return self.stored(reply)

        return self.connections.patiently(f"{self.url} could not be uploaded", send)

    def _same(self, data: bytes) -> Stored | None:
        reply, _ = self.connections.reply(self.call("GET", self._object))
        wanted = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        return self.stored(reply) if self._fields(reply).get("md5Hash") == wanted else None

    def upload_address(self, kind: str) -> str:
        """Where an upload begins that fails if something is at the address."""
        name = "" if kind == "multipart" else f"&name={quote(self.url.key, safe='')}"
        return f"{self._endpoint}/upload/{self._bucket}?uploadType={kind}&ifGenerationMatch=0{name}"

    def call(self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = b"") -> Call:
        """A request with whoever asks."""
        sent = {**self._headers, **(headers or {})}
        if self._asker.token is not None:
            sent["Authorization"] = f"Bearer {self._asker.token()}"
        return Call(method, url, sent, body)

    @property
    def endpoint(self) -> str:
        """The server, without a slash at its end."""
        return self._endpoint

    @property
    def _object(self) -> str:
        return f"{self._endpoint}/{self._bucket}/{quote(self.url.key, safe='')}"

    def _fields(self, reply: bytes) -> dict[str, Any]:
        try:
            found = json.loads(reply)
        except (ValueError, RecursionError):
            raise self.strange() from None
        if not isinstance(found, dict):
            raise self.strange()
        return found

    def strange(self) -> TransferError:
        """The error for an answer that the server of Google does not give."""
        return TransferError(
            f"The server's answer about {self.url} is not one of Google Cloud Storage.",
            hint="Check the setting gs.endpoint and the proxy.",
        )
