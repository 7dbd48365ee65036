"""The store behind ``gs:`` addresses: Google Cloud Storage by its JSON API.

https://cloud.google.com/storage/docs/json_api
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import attrs

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin.network import is_local
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.credentials_gs import Asker, find
from medperf_storage.object_http import Call, Connections, Refusal
from medperf_storage.object_urls import ObjectUrl, check_endpoint
from medperf_storage.objects import NOT_UPLOADED, BucketStorage, Found, Remote, access_hint, refused, taken
from medperf_storage.uploads import Body, Memory, Sent, Source

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Response

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
        self._connections = Connections(context, settings, local=self._endpoint != ENDPOINT)
        self._askers: dict[str, Asker] = {}
        self._memory = Memory()
        self._lock = threading.Lock()

    def public_url(self, url: str) -> str | None:
        address = self.address(url)
        found = f"{self._endpoint}/{address.bucket}/{address.quoted_key}"
        return found if found.startswith("https:") else None

    def anonymous(self) -> GcsStorage:
        return GcsStorage(attrs.evolve(self._settings, anonymous=True, user_project=None), self.context)

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
        return GcsObject(url, self._connections, self._endpoint, asker, self._settings.user_project, self._memory)


class GcsObject(Remote):
    """One object of Google Cloud Storage. Its version is its generation."""

    list_right = "the right storage.objects.list"

    def __init__(
        self,
        url: ObjectUrl,
        connections: Connections,
        endpoint: str,
        asker: Asker,
        user_project: str | None,
        memory: Memory,
    ) -> None:
        super().__init__(url, connections, memory)
        self._endpoint = endpoint
        self._asker = asker
        self._headers = {"x-goog-user-project": user_project} if user_project else {}
        self._bucket = f"storage/v1/b/{quote(url.bucket, safe='')}/o"

    def open(self, start: int, end: int, version: str) -> Response:
        generation = version or self.url.version
        query = "?alt=media" + (f"&generation={quote(generation, safe='')}" if generation else "")
        return self.answer("GET", self._object + query, {"Range": f"bytes={start}-{end - 1}"})

    def version_of(self, response: Response) -> str:
        found = response.headers.get("x-goog-generation", "")
        return found if _NUMBER.fullmatch(found) else ""

    @property
    def heeds_conditions(self) -> bool:
        return self._endpoint == ENDPOINT

    def found(self) -> Found | None:
        query = f"?generation={self.url.version}" if self.url.version else ""
        try:
            data, _ = self.reply("GET", self._object + query)
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise
        metadata = self._fields(data).get("metadata")
        return Found(self.stored(data), str(metadata.get("sha256", "")) if isinstance(metadata, dict) else "")

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
            if what == NOT_UPLOADED:
                hint = f"There is no bucket {self.url.bucket} at this server; check the name and gs.endpoint."
        elif refusal.status in (400, 401, 403):
            hint = access_hint(self.url, what, self._asker.source, anonymous=self._asker.token is None)
        return refused(self.url, what, refusal, hint)

    def has_bucket(self) -> bool:
        try:
            self.reply("GET", f"{self._endpoint}/{self._bucket.removesuffix('/o')}?fields=name")
        except Refusal as refusal:
            return refusal.status != 404
        return True

    @property
    def server(self) -> str:
        return self._endpoint

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        with Source(request) as source:
            if request.size > SMALL:
                from medperf_storage.gcs_resumable import Resumable

                return Resumable(self, request, source, on_bytes).run()
            with self.memory.held(request.size, self.connections.context.cancel):
                return self._put_small(request, source.read(request.size), Sent(on_bytes))

    def _put_small(self, request: PutRequest, data: bytes, sent: Sent) -> Stored:
        what = f"{self.url} could not be uploaded"
        boundary = request.sha256.lower()[:32]
        while boundary.encode() in data:
            boundary = hashlib.sha256(boundary.encode()).hexdigest()[:32]
        before = (
            f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode()
            + self.metadata(request)
            + f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        )
        body = Body(data, sent, telling=True, before=before, after=f"\r\n--{boundary}--\r\n".encode())
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        address = self.upload_address("multipart")

        def send() -> Stored:
            reply, _ = self.reply("POST", address, headers, body)
            return self.stored(reply)

        self.check_free(what, request)
        return self.surely(what, request, send)

    def metadata(self, request: PutRequest) -> bytes:
        """What an upload says of its object; the SHA-256 tells our own from somebody else's."""
        return json.dumps({"name": self.url.key, "metadata": {"sha256": request.sha256.lower()}}).encode()

    def upload_address(self, kind: str) -> str:
        """Where an upload begins that fails if something is at the address."""
        name = "" if kind == "multipart" else f"&name={quote(self.url.key, safe='')}"
        return f"{self._endpoint}/upload/{self._bucket}?uploadType={kind}&ifGenerationMatch=0{name}"

    def reply(
        self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = b""
    ) -> tuple[bytes, Mapping[str, str]]:
        """The whole of a short answer, and its headers; raises as ``Connections.answer`` does."""
        call = self.call(method, url, headers, body)
        try:
            return self.connections.reply(call)
        except Refusal as refusal:
            if not self.renew(call, refusal):
                raise
            return self.connections.reply(self.call(method, url, headers, body))

    def answer(self, method: str, url: str, headers: dict[str, str], also: int = 200) -> Response:
        """An answer, its body not yet read; as ``Connections.answer`` gives it."""
        call = self.call(method, url, headers)
        try:
            return self.connections.answer(call, also)
        except Refusal as refusal:
            if not self.renew(call, refusal):
                raise
            return self.connections.answer(self.call(method, url, headers), also)

    def renew(self, call: Call, refusal: Refusal) -> bool:
        """Get another token for a request whose token is no longer taken; whether there is one."""
        token = call.headers.get("Authorization", "").removeprefix("Bearer ")
        return bool(token) and refusal.status == 401 and self._asker.renew(token)

    def call(self, method: str, url: str, headers: dict[str, str] | None = None, body: Any = b"") -> Call:
        """A request with whoever asks."""
        sent = {**self._headers, **(headers or {})}
        if isinstance(body, Body):
            body.rewind()
        if self._asker.token is not None:
            sent["Authorization"] = f"Bearer {self._asker.token()}"
        return Call(method, url, sent, body, str(self.url))

    @property
    def address(self) -> str:
        """Where it is, for this site; tells one server's buckets from another's."""
        return self._object

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
