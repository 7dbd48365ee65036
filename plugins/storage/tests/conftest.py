"""A web server on loopback that misbehaves as a test says, and a network whose names a test makes up."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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

    def __init__(self, certificate: Path | ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.tunnel_to: int | None = None
        self.stopped = threading.Event()
        if certificate:
            tls = certificate
            if isinstance(tls, Path):
                folder, tls = tls, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                tls.load_cert_chain(folder / "server.pem", folder / "server.key")
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


class Authority:
    """A certificate authority that gives servers of this machine whatever names a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        signed = self._sign(self._name, self._key.public_key(), constraints)
        self.pem = folder / "ca.pem"
        self.pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str) -> ssl.SSLContext:
        """TLS with a certificate for some names."""
        key = ec.generate_private_key(ec.SECP256R1())
        found = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]),
            key.public_key(),
            x509.SubjectAlternativeName([_san(name) for name in names]),
        )
        file = self.folder / f"{names[0]}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + found.public_bytes(serialization.Encoding.PEM)
        )
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(file)
        return tls

    def _sign(self, name: x509.Name, key: Any, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture(scope="session")
def named_tls(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority for servers of any name."""
    return Authority(tmp_path_factory.mktemp("named-tls"))


@pytest.fixture
def named_server(named_tls: Authority) -> Iterator[Callable[..., Server]]:
    """Makes a server that speaks TLS under some names."""
    made: list[Server] = []

    def make(*names: str) -> Server:
        made.append(Server(named_tls.server(*names)))
        return made[-1]

    yield make
    for each in made:
        each.close()


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
    """No proxies and authorities but those that a test sets."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
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
