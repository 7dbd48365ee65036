"""The store behind ``s3:`` addresses: AWS, and every server that speaks S3 with Signature Version 4."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import attrs
import requests

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_storage.addresses import is_local, written_ip
from medperf_storage.credentials_s3 import Asker, AwsFiles, find
from medperf_storage.object_http import Call, Connections, Passing, Refusal
from medperf_storage.object_urls import ObjectUrl, check_endpoint
from medperf_storage.objects import BucketStorage, Remote, taken
from medperf_storage.sigv4 import EMPTY_SHA256, signed
from medperf_storage.uploads import Body, Sent, Source

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_storage.object_settings import S3Settings

SMALL = 8 << 20
"""Bytes up to which a file is uploaded in one request."""

T = TypeVar("T")
_REGION = re.compile(r"[a-z0-9-]{2,40}")
_ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e]{1,200}"')


@attrs.frozen
class Place:
    """Where buckets are.

    Attributes:
        endpoint: of the site's own server, without a slash at its end; None for AWS.
        region: of the buckets, as far as is known.
        path_style: whether the bucket's name stands in the path; None where the name decides.
    """

    endpoint: str | None
    region: str
    path_style: bool | None

    def base(self, bucket: str) -> str:
        """The address of a bucket, without a slash at its end."""
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        server = self.endpoint or f"https://s3.{self.region}.{suffix}"
        scheme, _, rest = server.partition("://")
        if self.path_style if self.path_style is not None else self._needs_path(rest, bucket):
            return f"{server}/{bucket}"
        return f"{scheme}://{bucket}.{rest}"

    def _needs_path(self, rest: str, bucket: str) -> bool:
        # A certificate for *.s3... does not hold for a name with more dots.
        return self.endpoint is not None or "." in bucket

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        return self.endpoint is not None and is_local(urlsplit(self.endpoint).hostname or "")


def place_of(settings: S3Settings) -> Place:
    """Where the settings, the environment and the files of AWS say that buckets are.

    Raises:
        ConfigurationError: one of them makes no sense.
    """
    files = AwsFiles(settings.profile)
    endpoint = None
    for place, value in (
        ("the setting s3.endpoint", settings.endpoint),
        ("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL_S3")),
        ("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT_URL")),
        (f"the profile {files.profile} of the AWS configuration", files.value("endpoint_url")),
    ):
        if value:
            endpoint = check_endpoint(value, place)
            break
    region = settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    region = region or files.value("region") or "us-east-1"
    if not _REGION.fullmatch(region):
        raise ConfigurationError("The region of S3 is not a name like eu-central-1.", hint="Correct s3.region.")
    styles = {"auto": None, "path": True, "virtual": False}
    if settings.addressing not in styles:
        raise ConfigurationError("The setting s3.addressing is 'auto', 'path' or 'virtual'.")
    style = styles[settings.addressing]
    if style is False and endpoint and written_ip(urlsplit(endpoint).hostname or ""):
        raise ConfigurationError(
            "A server that is named by its IP address cannot have the bucket in its host name.",
            hint="Set s3.addressing to 'path'.",
        )
    return Place(endpoint, region, style)


class S3Storage(BucketStorage):
    """Fetches and uploads objects of S3; see the README for its rules."""

    def __init__(self, settings: S3Settings, context: BackendContext) -> None:
        self.context = context
        self._settings = settings
        self._place = place_of(settings)
        self._connections = Connections(context, settings, local=self._place.local)
        self._askers: dict[str, Asker] = {}
        self._regions: dict[str, str] = {}
        self._lock = threading.Lock()

    def public_url(self, url: str) -> str | None:
        address = self.address(url)
        place = attrs.evolve(self._place, region=self._regions.get(address.bucket, self._place.region))
        found = f"{place.base(address.bucket)}/{address.quoted_key}"
        return found if found.startswith("https:") else None

    def remote(self, url: ObjectUrl) -> S3Object:
        with self._lock:
            asker = self._askers.get(url.bucket)
            if asker is None:
                asker = self._askers[url.bucket] = find(url.bucket, self._settings, self.context)
        return S3Object(url, self._connections, self._place, asker, self._settings.requester_pays, self._regions)


class S3Object(Remote):
    """One object of S3."""

    def __init__(
        self,
        url: ObjectUrl,
        connections: Connections,
        place: Place,
        asker: Asker,
        requester_pays: bool,
        regions: dict[str, str],
    ) -> None:
        super().__init__(url, connections)
        self._place = place
        self._asker = asker
        self._headers = {"x-amz-request-payer": "requester"} if requester_pays else {}
        self._regions = regions

    @property
    def address(self) -> str:
        """Where it is, for this site; tells one server's buckets from another's."""
        return f"{self._place.base(self.url.bucket)}/{self.url.quoted_key}"

    @contextmanager
    def open(self, start: int, end: int, version: str) -> Iterator[requests.Response]:
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if version:
            headers["If-Match"] = version
        with self._answer("GET", headers, self._version_query()) as response:
            yield response

    def version_of(self, response: requests.Response) -> str:
        return _etag(response.headers.get("ETag", ""))

    def look(self) -> Stored | None:
        try:
            _, headers = self.reply("HEAD", {}, self._version_query())
        except Refusal as refusal:
            if refusal.status == 404:
                return None
            raise
        length = headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,19}", length):
            raise TransferError(f"The server does not say how large {self.url} is.", hint="Check the endpoint.")
        return Stored(int(length), _etag(headers.get("etag", "")))

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
        elif refusal.status in (400, 401, 403):
            hint = (
                f"It was asked for with {self._asker.source}."
                if self._asker.key
                else f"It was asked for anonymously: {self._asker.source}."
            )
            hint += " Ask the bucket's owner for access, or to let everybody read it."
        return TransferError(f"{self.url} {what}: {refusal}.", hint=hint)

    def put(self, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        with Source(request) as source:
            if request.size > SMALL:
                from medperf_storage.s3_multipart import Multipart

                return Multipart(self, request, source, on_bytes).run()
            data = source.read(request.size)
        sent, attempts = Sent(on_bytes), 0

        def send() -> Stored:
            nonlocal attempts
            attempts += 1
            body = Body(data, sent, telling=True) if data else b""
            try:
                _, headers = self.reply("PUT", {"If-None-Match": "*"}, "", body, request.sha256)
            except Refusal as refusal:
                if refusal.status == 412 and attempts > 1:  # perhaps by ourselves, and the answer was lost
                    found = self.look()
                    if found == Stored(len(data), f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'):
                        return found
                if refusal.status == 409:
                    raise Passing("somebody else uploads to the same address") from None
                raise
            return Stored(len(data), _etag(headers.get("etag", "")))

        return self.connections.patiently(f"{self.url} could not be uploaded", send)

    def reply(
        self, method: str, headers: Mapping[str, str], query: str, body: Any = b"", body_sha256: str = EMPTY_SHA256
    ) -> tuple[bytes, Mapping[str, str]]:
        """The whole of a short answer, and its headers; raises as ``Connections.answer`` does."""
        return self._of_region(
            lambda region: self.connections.reply(self._call(region, method, headers, query, body, body_sha256))
        )

    @contextmanager
    def _answer(self, method: str, headers: Mapping[str, str], query: str) -> Iterator[requests.Response]:
        manager = self._of_region(
            lambda region: _entered(
                self.connections.answer(self._call(region, method, headers, query, b"", EMPTY_SHA256))
            )
        )
        response, leave = manager
        try:
            yield response
        finally:
            leave()

    def _of_region(self, ask: Callable[[str], T]) -> T:
        """Ask in the region that the bucket is known to be in, and once more if the server names another one."""
        region = self._regions.get(self.url.bucket, self._place.region)
        try:
            return ask(region)
        except Refusal as refusal:
            other = refusal.headers.get("x-amz-bucket-region", "")
            if refusal.status not in (301, 307, 400, 403) or other == region or not _REGION.fullmatch(other):
                raise
            self._regions[self.url.bucket] = other
            return ask(other)

    def _call(
        self, region: str, method: str, headers: Mapping[str, str], query: str, body: Any, body_sha256: str
    ) -> Call:
        base = attrs.evolve(self._place, region=region).base(self.url.bucket)
        url = f"{base}/{self.url.quoted_key}{f'?{query}' if query else ''}"
        sent = {**self._headers, **headers}
        if self._asker.key is not None:
            sent = signed(self._asker.key(), region, method, url, sent, body_sha256)
        return Call(method, url, sent, body)

    def _version_query(self) -> str:
        return f"versionId={quote(self.url.version, safe='')}" if self.url.version else ""


def _entered(manager: Any) -> tuple[requests.Response, Callable[[], None]]:
    return manager.__enter__(), lambda: manager.__exit__(None, None, None)


def _etag(text: str) -> str:
    """An ETag that may be sent back, or ""."""
    return text if _ETAG.fullmatch(text) else ""
