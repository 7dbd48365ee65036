"""Buckets on the real servers for S3 and Google Cloud Storage, a network that can be cut, and no cloud outside."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
import pytest
import requests

from medperf_core.plugin import BackendContext, CancelToken, Event, FetchInfo, FetchRequest, Storage
from medperf_core.plugin.storage import PutRequest, Stored
from medperf_core.plugin.testing.relay import Relay
from medperf_storage.gcs import GcsStorage
from medperf_storage.object_settings import GcsSettings, S3Settings
from medperf_storage.s3 import S3Storage
from medperf_storage.sigv4 import Key, signed
from tests.engines import require

CLOUD_VARIABLES = re.compile("(AWS|GOOGLE|GCE|GCLOUD|CLOUDSDK|STORAGE_EMULATOR)_?.*")


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials but those that a test gives, and metadata services on this machine, where nobody listens."""
    for name in list(os.environ):
        if CLOUD_VARIABLES.fullmatch(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"):
        monkeypatch.setenv(name, "127.0.0.1:9")
    monkeypatch.setenv("GCE_METADATA_TIMEOUT", "1")
    monkeypatch.setenv("GCE_METADATA_DETECT_RETRIES", "1")


@attrs.frozen
class Bucket:
    """A bucket on a real server, and what a test does there beside the store.

    Attributes:
        scheme: of its addresses.
        server: the server's own address.
        door: the address through the relay, which is what a store is given.
    """

    scheme: str
    name: str
    server: str
    door: str
    credentials: Mapping[str, str]

    def url(self, key: str) -> str:
        return f"{self.scheme}://{self.name}/{key}"

    def settings(self, **values: Any) -> Any:
        made = {"endpoint": self.door, "attempts": 3, "pause": 0.0, "connect_timeout": 5.0, "read_timeout": 10.0}
        return (S3Settings if self.scheme == "s3" else GcsSettings)(**{**made, **values})

    def store(self, context: BackendContext, **settings: Any) -> Storage:
        made = self.settings(**settings)
        return S3Storage(made, context) if self.scheme == "s3" else GcsStorage(made, context)

    def put(self, key: str, content: bytes, **headers: str) -> str:
        """Put an object there, in place of another; gives its address."""
        if self.scheme == "s3":
            self.ask("PUT", quote(key), content, headers)
        else:
            address = f"{self.server}/upload/storage/v1/b/{self.name}/o?uploadType=media&name={quote(key, safe='')}"
            _checked(requests.post(address, data=content, headers=headers))
        return self.url(key)

    def content(self, key: str) -> bytes:
        """What is there, read without the store."""
        if self.scheme == "s3":
            return bytes(self.ask("GET", quote(key)).content)
        return _checked(requests.get(f"{self.server}/{self.name}/{quote(key)}")).content

    def names(self) -> list[str]:
        """What is there."""
        if self.scheme == "s3":
            return re.findall("<Key>([^<]*)</Key>", self.ask("GET", "").text)
        found = _checked(requests.get(f"{self.server}/storage/v1/b/{self.name}/o")).json()
        return [each["name"] for each in found.get("items", [])]

    def uploads(self) -> list[str]:
        """Uploads in parts that nobody completed or removed. Only S3."""
        return re.findall("<UploadId>([^<]*)</UploadId>", self.ask("GET", "?uploads=").text)

    def uploads_and_keys(self) -> list[tuple[str, str]]:
        """Upload IDs with their keys."""
        text = self.ask("GET", "?uploads=").text
        return list(zip(self.uploads(), (quote(key) for key in re.findall("<Key>([^<]*)</Key>", text)), strict=True))

    def ask(self, method: str, rest: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Any:
        """A signed request of S3 below the bucket."""
        url = f"{self.server}/{self.name}{'' if rest.startswith('?') or not rest else '/'}{rest}"
        key = Key(self.credentials["access_key_id"], self.credentials["secret_access_key"])
        sent = signed(key, "us-east-1", method, url, headers or {}, hashlib.sha256(body).hexdigest())
        return _checked(requests.request(method, url, data=body, headers=sent))


def _checked(response: requests.Response) -> requests.Response:
    assert response.status_code < 300, (response.status_code, response.text[:300])
    return response


@pytest.fixture
def relay() -> Iterator[Relay]:
    relay = Relay()
    yield relay
    relay.close()


def _door(relay: Relay, server: str) -> str:
    port = urlsplit(server).port
    assert port
    return f"http://127.0.0.1:{relay.front(port)}"


@pytest.fixture
def s3_bucket(relay: Relay) -> Iterator[Bucket]:
    engine = require("s3")
    keys = {
        "access_key_id": engine["MEDPERF_TEST_S3_KEY"],
        "secret_access_key": engine["MEDPERF_TEST_S3_SECRET"],
    }
    server = engine["MEDPERF_TEST_S3"]
    bucket = Bucket("s3", f"test-{uuid.uuid4().hex[:12]}", server, _door(relay, server), keys)
    bucket.ask("PUT", "")
    yield bucket
    for upload, key in bucket.uploads_and_keys():
        bucket.ask("DELETE", f"{key}?uploadId={quote(upload, safe='')}")
    for key in bucket.names():
        bucket.ask("DELETE", quote(key))
    with contextlib.suppress(AssertionError):  # older versions of what a test put there keep it; it hurts nobody
        bucket.ask("DELETE", "")


@pytest.fixture
def gs_bucket(relay: Relay) -> Iterator[Bucket]:
    server = require("gcs")["MEDPERF_TEST_GCS"]
    bucket = Bucket("gs", f"test-{uuid.uuid4().hex[:12]}", server, _door(relay, server), {})
    _checked(requests.post(f"{server}/storage/v1/b?project=test", json={"name": bucket.name}))
    yield bucket
    for key in bucket.names():
        requests.delete(f"{server}/storage/v1/b/{bucket.name}/o/{quote(key, safe='')}")
    requests.delete(f"{server}/storage/v1/b/{bucket.name}")


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """A bucket of each cloud in turn."""
    found = request.getfixturevalue(f"{request.param}_bucket")
    assert isinstance(found, Bucket)
    return found


@attrs.define
class Held:
    """A sink that keeps what it gets."""

    data: bytearray = attrs.field(factory=bytearray)
    expected: list[tuple[int | None, str]] = attrs.field(factory=list)
    restarts: int = 0

    def expect(self, size: int | None, version: str = "") -> None:
        self.expected.append((size, version))

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()
        self.restarts += 1

    @property
    def written(self) -> int:
        return len(self.data)


@attrs.define
class Person:
    """Fetches and uploads as a site does.

    Attributes:
        stored: credentials by name, as a site has them.
    """

    context: BackendContext
    events: list[Event]
    folder: Path
    sink: Held = attrs.field(factory=Held)
    sent: list[int] = attrs.field(factory=list)

    def fetch(self, store: Storage, url: str, sink: Held | None = None, **request: Any) -> FetchInfo:
        self.sink = sink or Held()
        values = {"allow_local": False, "max_bytes": 1 << 40, **request}
        return store.fetch(FetchRequest(url, **values), self.sink)

    def request(self, url: str, path: Path) -> PutRequest:
        content = path.read_bytes()
        return PutRequest(url, path, len(content), hashlib.sha256(content).hexdigest())

    def put(self, store: Storage, url: str, content: bytes, **request: Any) -> Stored:
        path = self.folder / "to-upload"
        path.write_bytes(content)
        self.sent = []
        values = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **request}
        return store.put(PutRequest(url=url, path=path, **values), self.sent.append)


@pytest.fixture
def person(tmp_path: Path) -> Person:
    events: list[Event] = []
    engine = {"access_key_id": "medperf-test", "secret_access_key": "local-only-secret"}

    def credentials(name: str) -> Mapping[str, str] | None:
        return engine if name == "s3" else {"access_token": "made-up-token"} if name == "gs" else None

    context = BackendContext(
        tmp_path / "cache", tmp_path / "temp", emit=events.append, credentials=credentials, cancel=CancelToken()
    )
    return Person(context, events, tmp_path)


Answer = tuple[int, dict[str, str], bytes]


class Front(ThreadingHTTPServer):
    """Stands before a real server, notes what it is asked, and answers by itself where a test says so.

    Attributes:
        seen: method, path and headers (names in lower case) of each request.
        body: of the last request; ``bodies`` are those of all.
        instead: gives the answer to a request instead of the server, or None; the method and path are its arguments.
        change: gives the answer in place of the server's.
    """

    daemon_threads = True

    def __init__(self, behind: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _FrontHandler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.behind = urlsplit(behind)
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.body = b""
        self.bodies: list[bytes] = []
        self.instead: Callable[[str, str], Answer | None] = lambda method, path: None
        self.change: Callable[[str, str, Answer], Answer] = lambda method, path, answer: answer
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what the tests are about."""


class _FrontHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def _all(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.server.body = self.rfile.read(int(headers.get("content-length", "0")))
        self.server.seen.append((self.command, self.path, headers))
        self.server.bodies.append(body)
        answer = self.server.instead(self.command, self.path)
        if answer is None:
            far = http.client.HTTPConnection(self.server.behind.hostname or "", self.server.behind.port)
            far.request(self.command, self.path, body or None, dict(self.headers.items()))
            response = far.getresponse()
            found = dict(response.getheaders())
            answer = self.server.change(self.command, self.path, (response.status, found, response.read()))
            far.close()
        status, given, content = answer
        self.send_response(status)
        length = given.pop("Content-Length", None) if self.command == "HEAD" else None
        for name, value in given.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _all

    def log_message(self, format: str, *args: Any) -> None:
        """A test reads ``seen`` instead."""


@pytest.fixture
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """Stands before the server of the fixture ``bucket``, ``s3_bucket`` or ``gs_bucket`` of the same test."""
    name = next(each for each in ("bucket", "s3_bucket", "gs_bucket") if each in request.fixturenames)
    front = Front(request.getfixturevalue(name).server)
    yield front
    front.shutdown()
    front.server_close()


@pytest.fixture
def tls_front(named_tls: Any) -> Iterator[Callable[..., Front]]:
    """Makes one that speaks TLS under some names, before a server."""
    made: list[Front] = []

    def make(behind: str, *names: str) -> Front:
        made.append(Front(behind, named_tls.server(*names)))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()
        each.server_close()


@pytest.fixture
def make_held() -> Callable[[bytes], Held]:
    """Makes a sink that holds bytes already."""
    return lambda data: Held(bytearray(data))


@pytest.fixture
def service() -> Iterator[Callable[[Callable[[str, str], Any]], Front]]:
    """Makes a server of which a function gives the bodies of all answers, perhaps with headers."""
    made: list[Front] = []

    def make(answer: Callable[[str, str], Any]) -> Front:
        front = Front("http://127.0.0.1:9")

        def instead(method: str, path: str) -> Answer:
            found = answer(method, path)
            body, headers = found if isinstance(found, tuple) else (found, {})
            return 200, dict(headers), body

        front.instead = instead
        made.append(front)
        return front

    yield make
    for each in made:
        each.shutdown()
        each.server_close()


@pytest.fixture
def google_metadata(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a server of this machine in place of Google's metadata service."""

    def use(address: str) -> None:
        pytest.importorskip("google.auth.compute_engine._metadata")
        place = address.removeprefix("http://")
        for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"):
            monkeypatch.setenv(name, place)
        # The library reads this one only when it is loaded.
        monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", place)

    return use
