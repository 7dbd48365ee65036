"""A web server on loopback that misbehaves as a test says, and a network whose names a test makes up."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.plugin import BackendContext, CancelToken, Event, FetchInfo, FetchRequest
from medperf_storage.http import HttpStorage
from medperf_storage.settings import HttpSettings
from tests.engines import certificates

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Looks up the answer by path; a request to a proxy has the whole address there."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers.items())))
        answers = self.server.answers.get(self.path)
        if answers is None:
            self.answer(404)
            return
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.close_connection = True
        answer(self)

    def do_CONNECT(self) -> None:
        self.server.seen.append((self.path, dict(self.headers.items())))
        self.close_connection = True
        if self.server.tunnel_to is None:
            self.answer(403)
            return
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.server.tunnel_to)) as far:
            back = threading.Thread(target=pump, args=(far, self.connection), daemon=True)
            back.start()
            pump(self.connection, far)
            back.join(5)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names.setdefault("Content-Length", str(len(body)))
        for name, value in names.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A test reads ``seen`` instead."""


class Server(ThreadingHTTPServer):
    """Serves until closed. ``answers`` gives each path its answers in order; the last one is repeated."""

    daemon_threads = True

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.tunnel_to: int | None = None
        self.stopped = threading.Event()
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate / "server.pem", certificate / "server.key")
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def serve(self, path: str, *answers: Answer) -> str:
        """Give a path its answers; returns the address."""
        self.answers[path] = list(answers)
        return self.url + path

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what the tests are about."""

    def close(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def proxy() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem and the certificate of a server on loopback."""
    folder = tmp_path_factory.mktemp("tls")
    certificates.ensure(folder)
    return folder


@pytest.fixture
def tls_server(authority: Path) -> Iterator[Server]:
    server = Server(authority)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What names resolve to. Names that are not in here do not resolve, so that no test asks a real name server."""
    table = {"localhost": "127.0.0.1"}
    real = socket.getaddrinfo

    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        try:
            socket.inet_aton(host)
        except OSError:
            if ":" not in host:
                if host not in table:
                    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None
                host = table[host]
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those that a test sets."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


class Waits(CancelToken):
    """Notes how long the store wanted to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return super().wait(0)


@attrs.define
class Memory:
    """A sink that keeps what it gets."""

    data: bytes = b""
    expected: list[int | None] = attrs.field(factory=list)
    restarts: int = 0

    def expect(self, size: int | None, version: str = "") -> None:
        self.expected.append(size)

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data = b""
        self.restarts += 1

    @property
    def written(self) -> int:
        return len(self.data)


@attrs.define
class Client:
    """Fetches with the store, as a site would ask it to."""

    context: BackendContext
    waits: Waits
    events: list[Event]
    settings: HttpSettings = attrs.field(factory=lambda: HttpSettings(connect_timeout=5, read_timeout=5, attempts=3))
    sink: Memory = attrs.field(factory=Memory)

    def fetch(
        self,
        url: str,
        *,
        allow_local: bool = True,
        max_bytes: int = 1 << 30,
        start: bytes = b"",
        version: str = "",
        whole: bool = False,
        **context: Any,
    ) -> FetchInfo:
        self.sink = Memory(start)
        store = HttpStorage(self.settings, attrs.evolve(self.context, **context))
        return store.fetch(FetchRequest(url, allow_local, max_bytes, len(start), version, whole), self.sink)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    waits, events = Waits(), list[Event]()
    return Client(BackendContext(tmp_path, tmp_path, cancel=waits, emit=events.append), waits, events)
