"""Short questions to servers on this machine: does it answer?"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT = 3.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def _status(connection: http.client.HTTPConnection, path: str, headers: dict[str, str] | None = None) -> int | None:
    try:
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def http_status(url: str, ca: Path | None = None, login: tuple[str, str] | None = None) -> int | None:
    """The status of a GET on a loopback address; None when nothing answers."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError:
            return None
        connection = http.client.HTTPSConnection(parts.netloc, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
    headers = {}
    if login is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    return _status(connection, parts.path or "/", headers)


def docker_answers(host: str) -> bool:
    """Whether a Docker daemon answers at a unix:// or loopback tcp:// address."""
    if host.startswith("unix://"):
        return _status(_UnixConnection(host.removeprefix("unix://")), "/_ping") == 200
    parts = urlsplit(host)
    if parts.scheme not in ("tcp", "http") or not is_loopback(parts.hostname):
        return False
    return _status(http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT), "/_ping") == 200


def is_loopback(name: str | None) -> bool:
    """Whether a host's name or number stays on this machine."""
    return name is not None and (name in ("localhost", "::1") or name.startswith("127."))


def postgres_answers(port: int, user: str, database: str) -> bool:
    """Whether PostgreSQL asks for a password (it reports an error instead while it starts up)."""
    body = (196608).to_bytes(4, "big") + f"user\0{user}\0database\0{database}\0\0".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as server:
            server.sendall((len(body) + 4).to_bytes(4, "big") + body)
            return server.recv(1) == b"R"
    except OSError:
        return False
