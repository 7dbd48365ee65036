"""Whom requests are sent to, over which connections, and how waiting for an answer ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from medperf_core.errors import CancelledError, ConfigurationError, TransferError
from medperf_core.plugin import CancelToken, FetchRequest, Notice
from medperf_storage import sending
from medperf_storage.http import HttpStorage
from medperf_storage.retrying import Passing, Patience
from medperf_storage.sending import Server as Whom
from medperf_storage.sending import server_of
from medperf_storage.settings import HttpSettings

if TYPE_CHECKING:
    from conftest import Client, Handler, Server


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("HTTP://LOCALHOST:80/a", Whom("http", "localhost", 80)),
        ("https://bücher.example", Whom("https", "xn--bcher-kva.example", 443)),
        ("http://evil.example\\@good.example/up", Whom("http", "evil.example", 80)),
        ("http://evil.example%5C@good.example:8/up", Whom("http", "good.example", 8)),
        ("http://[::1]:8/x", Whom("http", "[::1]", 8)),
    ],
)
def test_who_is_meant(url: str, server: Whom) -> None:
    assert server_of(url) == server


@pytest.mark.parametrize(
    "url", ["", "host", "/a", "ftp://host/", "https://", "http://h:0/", "http://[::1", "http://１.2.3.4"]
)
def test_who_is_not_to_be_read(url: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        server_of(url)


def test_what_is_asked_is_whom_the_rules_saw(server: Server, client: Client) -> None:
    """Two ways to read an address are no way around: what is checked is what is connected to."""
    server.serve("/", lambda handler: handler.answer(200, b"content"))
    for url in (f"http://127.0.0.1:{server.server_port}\\@files.example/", "http://127.0.0.1\\@files.example/"):
        sender = HttpStorage(client.settings, client.context)._asker.sender
        with pytest.raises(TransferError, match="leads to this machine"):
            sender.send("GET", url, {}, allow_local=False, subject="It", failed="failed")
    assert server.seen == []


def test_connections_are_kept_and_told_from_failures(client: Client) -> None:
    """That a server closed a kept connection meanwhile is no failure; that it closes each one is."""
    connections = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            connections.append(connected)
            threading.Thread(target=answer, args=(connected,), daemon=True).start()

    def answer(connected: socket.socket) -> None:
        for _ in range(2):
            if not connected.recv(65536):
                break
            connected.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        connected.recv(65536)  # takes the third request, and says nothing
        connected.close()

    threading.Thread(target=serve, daemon=True).start()
    store = HttpStorage(client.settings, client.context)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
    for _ in range(5):
        store.fetch(FetchRequest(url, True, 1 << 20), type(client.sink)())
    assert len(connections) == 3
    assert not [event for event in client.events if isinstance(event, Notice)]
    listener.close()


def silent(handler: Handler) -> None:
    handler.server.stopped.wait(30)


def silent_body(handler: Handler) -> None:
    handler.answer(200, b"x", Content_Length="1000")
    handler.wfile.flush()
    handler.server.stopped.wait(30)


@pytest.mark.timeout(25)
@pytest.mark.parametrize("way", [silent, silent_body])
@pytest.mark.parametrize("encrypted", [False, True])
def test_waiting_ends_when_it_is_cancelled(
    way: Callable[[Any], None], encrypted: bool, server: Server, tls_server: Server, client: Client, authority: Path
) -> None:
    asked, each = threading.Event(), tls_server if encrypted else server

    def answer(handler: Handler) -> None:
        asked.set()
        way(handler)

    token = CancelToken()
    context = attrs.evolve(client.context, cancel=token, ca_bundle=authority / "ca.pem")
    store = HttpStorage(HttpSettings(read_timeout=60), context)
    url, failures = each.serve("/a", answer), list[BaseException]()

    def work() -> None:
        try:
            store.fetch(FetchRequest(url, True, 1 << 20), client.sink)
        except CancelledError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert asked.wait(10)
    token.cancel()
    thread.join(10)
    assert not thread.is_alive() and failures


def test_authorities_are_read_once(
    tls_server: Server, client: Client, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = [], sending.tls_context

    def counted(*words: Any, **names: Any) -> Any:
        made.append(words)
        return real(*words, **names)

    monkeypatch.setattr(sending, "tls_context", counted)
    tls_server.serve("/a", lambda handler: handler.answer(200, b"content"))
    store = HttpStorage(client.settings, attrs.evolve(client.context, ca_bundle=authority / "ca.pem"))
    for host in ("127.0.0.1", "localhost"):
        url = f"https://{host}:{tls_server.server_port}/a"
        store.fetch(FetchRequest(url, True, 1 << 20), type(client.sink)())
    assert made == [(str(authority / "ca.pem"),)]


def test_pauses_grow_to_an_end(client: Client) -> None:
    patience = Patience(HttpSettings(attempts=100), client.context, "x could not be fetched")
    for _ in range(99):
        patience.failed(Passing("no"))
    assert client.waits.seconds[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0] and max(client.waits.seconds) == 30.0
    with pytest.raises(TransferError, match="attempt 100 of 100"):
        patience.failed(Passing("no"))


@pytest.mark.parametrize("name", ["attempts", "connections"])
def test_there_is_an_end_to_patience(name: str, client: Client) -> None:
    with pytest.raises(ConfigurationError, match=r"between 1 and 100|Between 1 and 8"):
        HttpStorage(HttpSettings(**{name: 5000}), client.context)


def test_a_token_of_its_own_ends_a_pause(client: Client) -> None:
    token = client.context.cancel.child()
    patience = Patience(HttpSettings(pause=60), client.context, "x", token)
    threading.Timer(0.1, token.cancel).start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        patience.failed(Passing("no"))
    assert time.monotonic() - started < 30
