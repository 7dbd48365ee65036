"""The store behind ``s3:`` addresses: AWS, and every server that speaks S3 with Signature Version 4."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import attrs

from medperf_core.errors import TransferError
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.credentials_s3 import Asker, find
from medperf_storage.object_http import Call, Connections, Passing, Refusal
from medperf_storage.object_urls import ObjectUrl
from medperf_storage.objects import BucketStorage, Found, Remote, access_hint, refused, taken
from medperf_storage.s3_place import REGION, Place, place_of
from medperf_storage.sigv4 import EMPTY_SHA256, Key, signed
from medperf_storage.uploads import Body, Memory, Sent, Source

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse as Response

    from medperf_core.plugin import BackendContext
    from medperf_storage.object_settings import S3Settings

SHA256 = "x-amz-meta-sha256"
"""Header with the SHA-256 that an object was uploaded with; tells our own from somebody else's."""

SMALL = 8 << 20
"""Bytes up to which a file is uploaded in one request."""

T = TypeVar("T")
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
"""What servers say of keys that were good once."""

_WRONG_KEYS = {
    "SignatureDoesNotMatch": "The secret key is wrong",
    "InvalidAccessKeyId": "The server does not know the access key",
}
"""What servers say of keys that never were good."""

_ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e]{1,200}"')


class S3Storage(BucketStorage):
    """Fetches and uploads objects of S3; see the README for its rules."""

    def __init__(self, settings: S3Settings, context: BackendContext) -> None:
        self.context = context
        self._settings = settings
        self._place = place_of(settings)
        self._connections = Connections(context, settings, "AWS_CA_BUNDLE", local=self._place.endpoint is not None)
        self._askers: dict[str, Asker] = {}
        self._regions: dict[str, str] = {}
        self._memory = Memory()
        self._lock = threading.Lock()

    def public_url(self, url: str) -> str | None:
        address = self.address(url)
        place = attrs.evolve(self._place, region=self._regions.get(address.bucket, self._place.region))
        found = f"{place.base(address.bucket)}/{address.quoted_key}"
        return found if found.startswith("https:") else None

    def anonymous(self) -> S3Storage:
        return S3Storage(attrs.evolve(self._settings, anonymous=True, requester_pays=False), self.context)

    def remote(self, url: ObjectUrl) -> S3Object:
        with self._lock:
            asker = self._askers.get(url.bucket)
            if asker is None:
                asker = self._askers[url.bucket] = find(url.bucket, self._settings, self.context)
        pays = self._settings.requester_pays
        return S3Object(url, self._connections, self._place, asker, pays, self._regions, self._memory)


class S3Object(Remote):
    """One object of S3."""

    list_right = "the right s3:ListBucket"

    def __init__(
        self,
        url: ObjectUrl,
        connections: Connections,
        place: Place,
        asker: Asker,
        requester_pays: bool,
        regions: dict[str, str],
        memory: Memory,
    ) -> None:
        super().__init__(url, connections, memory)
        self._place = place
        self._asker = asker
        self._headers = {"x-amz-request-payer": "requester"} if requester_pays else {}
        self._regions = regions

    @property
    def address(self) -> str:
        """Where it is, for this site; tells one server's buckets from another's."""
        return f"{self._place.base(self.url.bucket)}/{self.url.quoted_key}"

    def open(self, start: int, end: int, version: str) -> Response:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if version:
            headers["If-Match"] = version
        return self._answer("GET", headers, self._version_query())

    def version_of(self, response: Response) -> str:
        etag = response.headers.get("ETag", "").strip()
        if etag and not etag.startswith('"'):
            raise TransferError(
                f"{self.url} could not be fetched: the server gives no strong ETag, so a change half-way would not be "
                "noticed.",
                hint="Check the setting s3.endpoint, and whether a proxy on the way changes files.",
            )
        return _etag(etag)

    @property
    def heeds_conditions(self) -> bool:
        return self._place.endpoint is None

    def found(self) -> Found | None:
        try:
            _, headers = self.reply("HEAD", {}, self._version_query())
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise
        length = headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,19}", length):
            raise TransferError(f"The server does not say how large {self.url} is.", hint="Check the endpoint.")
        stored = Stored(int(length), _etag(headers.get("etag", "")))
        if not stored.version:
            raise self.strange("tell what is at an address")
        return Found(stored, headers.get(SHA256, ""))

    def is_change(self, refusal: Refusal) -> bool:
        return refusal.status in (404, 412)

    def words(self, refusal: Refusal, what: str) -> TransferError:
        if refusal.status == 412:
            return taken(self.url)
        hint = "Ask the bucket's owner, and check the endpoint and region."
        if refusal.code == "NoSuchBucket":
            hint = f"There is no bucket {self.url.bucket} at this server; check the name and the setting s3.endpoint."
        elif refusal.status == 404:
            hint = "Check the address for typing errors, or ask its owner where the file is now."
        elif refusal.code in _WRONG_KEYS and self._asker.key:
            hint = f"{_WRONG_KEYS[refusal.code]}: correct {self._asker.source}."
        elif refusal.status in (400, 401, 403):
            hint = access_hint(self.url, what, self._asker.source, anonymous=self._asker.key is None)
        return refused(self.url, what, refusal, hint)

    def look(self) -> Stored | None:
        try:
            return super().look()
        except Refusal as refusal:
            if refusal.status != 403 or refusal.code:
                raise
            # An answer to HEAD has no body that would tell why: such as that the keys are wrong.
            try:
                self._answer("GET", {"Range": "bytes=0-0"}, self._version_query()).close()
            except Refusal as told:
                raise (told if told.code else refusal) from None
            raise

    def has_bucket(self) -> bool:
        try:
            self._of_region(lambda region: self.connections.reply(self._call(region, "HEAD", {}, "", bucket=True)))
        except Refusal as refusal:
            return refusal.status != 404
        return True

    @property
    def server(self) -> str:
        return self._place.endpoint or "AWS (no s3.endpoint is set)"

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        with Source(request) as source:
            if request.size > SMALL:
                from medperf_storage.s3_multipart import Multipart

                return Multipart(self, request, source, on_bytes).run()
            with self.memory.held(request.size, self.connections.context.cancel):
                return self._put_small(request, source.read(request.size), Sent(on_bytes))

    def _put_small(self, request: PutRequest, data: bytes, sent: Sent) -> Stored:
        what = f"{self.url} could not be uploaded"
        headers = {"If-None-Match": "*", SHA256: request.sha256.lower()}
        body = Body(data, sent, telling=True) if data else b""

        def send() -> Stored:
            try:
                _, answer = self.reply("PUT", headers, "", body, request.sha256.lower())
            except Refusal as refusal:
                if refusal.status == 409:
                    raise Passing("somebody else uploads to the same address") from None
                raise
            version = _etag(answer.get("etag", ""))
            if not version:
                raise self.strange("take a file")
            return Stored(len(data), version)

        self.check_free(what, request)
        return self.surely(what, request, send)

    def described(self, request: PutRequest) -> dict[str, str]:
        """What the beginning of an upload in parts says of its object."""
        return {"Content-Type": "application/octet-stream", SHA256: request.sha256.lower()}

    def reply(
        self, method: str, headers: Mapping[str, str], query: str, body: Any = b"", body_sha256: str = EMPTY_SHA256
    ) -> tuple[bytes, Mapping[str, str]]:
        """The whole of a short answer, and its headers; raises as ``Connections.answer`` does."""
        return self._of_region(
            lambda region: self.connections.reply(self._call(region, method, headers, query, body, body_sha256))
        )

    def ask_bucket(self, query: str) -> bytes:
        """The answer to a question about the whole bucket; raises as ``Connections.answer`` does."""
        ask = self.connections.reply
        return self._of_region(lambda region: ask(self._call(region, "GET", {}, query, bucket=True)))[0]

    def _answer(self, method: str, headers: Mapping[str, str], query: str) -> Response:
        return self._of_region(lambda region: self.connections.answer(self._call(region, method, headers, query)))

    def _of_region(self, ask: Callable[[str], T]) -> T:
        """Ask in the region that the bucket is known to be in, and once more if the server names another one, or no
        longer takes the keys and there are others."""
        region = self._regions.get(self.url.bucket, self._place.region)
        key = self._asker.key() if self._asker.key else None
        try:
            return ask(region)
        except Refusal as refusal:
            if key and refusal.status in (400, 401, 403) and _is_expired(key, refusal) and self._asker.renew(key):
                return ask(region)
            other = refusal.headers.get("x-amz-bucket-region", "")
            if refusal.status not in (301, 307, 400, 403) or other == region or not REGION.fullmatch(other):
                raise
            self._regions[self.url.bucket] = other
            return ask(other)

    def _call(
        self,
        region: str,
        method: str,
        headers: Mapping[str, str],
        query: str,
        body: Any = b"",
        body_sha256: str = EMPTY_SHA256,
        *,
        bucket: bool = False,
    ) -> Call:
        base = attrs.evolve(self._place, region=region).base(self.url.bucket)
        key = "" if bucket else self.url.quoted_key
        url = f"{base}/{key}{f'?{query}' if query else ''}"
        sent = {**self._headers, **headers}
        if self._asker.key is not None:
            sent = signed(self._asker.key(), region, method, url, sent, body_sha256)
        if isinstance(body, Body):
            body.rewind()
        return Call(method, url, sent, body, str(self.url))

    def strange(self, what: str) -> TransferError:
        """The error for an answer that no server of S3 gives to a request to do ``what``."""
        return TransferError(
            f"The server's answer about {self.url} is not one of S3, when it had to {what}.",
            hint="Check the setting s3.endpoint and the proxy.",
        )

    def _version_query(self) -> str:
        return f"versionId={quote(self.url.version, safe='')}" if self.url.version else ""


def _is_expired(key: Key, refusal: Refusal) -> bool:
    """Whether keys may be ones that were good once. An answer to HEAD does not tell; only keys of a session expire."""
    return refusal.code in _EXPIRED or (not refusal.code and bool(key.token))


def _etag(text: str) -> str:
    """An ETag that may be sent back, or ""."""
    return text if _ETAG.fullmatch(text) else ""
