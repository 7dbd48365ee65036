"""What goes wrong on the way is tried again or named; what came before never mixes with what comes after."""

from __future__ import annotations

import gzip
import random
import socket
import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import attrs
import pytest

from medperf_core.errors import CancelledError, ConfigurationError, OfflineError, TransferError
from medperf_core.plugin import CancelToken, FetchRequest, Notice
from medperf_storage.http import HttpStorage
from medperf_storage.settings import HttpSettings

if TYPE_CHECKING:
    from conftest import Answer, Client, Handler, Server

CONTENT = random.Random(3).randbytes(700_000)


def whole(handler: Handler) -> None:
    handler.answer(200, CONTENT, ETag='"v1"')


def cut(position: int) -> Answer:
    def answer(handler: Handler) -> None:
        handler.answer(200, CONTENT[:position], Content_Length=str(len(CONTENT)))

    return answer


def chunked(pieces: list[bytes], *, end: bytes = b"0\r\n\r\n") -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.wfile.write(end)

    return answer


def status(number: int, **headers: str) -> Answer:
    return lambda handler: handler.answer(number, b"words", **headers)


def drop(handler: Handler) -> None:
    handler.connection.close()


def stall(handler: Handler) -> None:
    handler.answer(200, CONTENT[:100], Content_Length=str(len(CONTENT)))
    handler.wfile.flush()
    handler.server.stopped.wait(30)


def test_whole_file(server: Server, client: Client) -> None:
    info = client.fetch(server.serve("/a?x=1", whole) + "#fragment")
    assert client.sink.data == CONTENT
    assert client.sink.expected == [len(CONTENT)]
    assert (info.size, info.version) == (len(CONTENT), '"v1"')
    ((path, headers),) = server.seen
    assert path == "/a?x=1"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("medperf-storage/")


def test_chunked_file_has_no_size_before_the_end(server: Server, client: Client) -> None:
    info = client.fetch(server.serve("/a", chunked([CONTENT[:5], CONTENT[5:]])))
    assert client.sink.data == CONTENT
    assert client.sink.expected == [None]
    assert info.size == len(CONTENT)


@pytest.mark.parametrize("position", [0, 1, *random.Random(4).sample(range(2, len(CONTENT)), 6), len(CONTENT) - 1])
def test_cut_answer_is_fetched_again_from_the_start(position: int, server: Server, client: Client) -> None:
    client.fetch(server.serve("/a", cut(position), whole))
    assert client.sink.data == CONTENT
    assert client.sink.restarts == 1
    assert [event for event in client.events if isinstance(event, Notice)]


@pytest.mark.parametrize(
    "answer",
    [
        chunked([CONTENT[:1000]], end=b""),
        chunked([CONTENT[:1000]], end=b"fff\r\nonly a part"),
        chunked([CONTENT[:1000]], end=b"no number\r\n"),
        drop,
        status(500),
        status(502),
        status(503),
        status(504),
        status(429),
        status(408),
    ],
    ids=["chunk cut", "inside a chunk", "bad chunk", "drop", "500", "502", "503", "504", "429", "408"],
)
def test_passing_fault_is_tried_again(answer: Answer, server: Server, client: Client) -> None:
    client.fetch(server.serve("/a", answer, answer, whole))
    assert client.sink.data == CONTENT
    assert client.waits.seconds == [1.0, 2.0]


def test_lasting_fault_ends_with_its_reason(server: Server, client: Client) -> None:
    with pytest.raises(TransferError, match=r"/a could not be fetched: the answer was cut short .*attempt 3 of 3"):
        client.fetch(server.serve("/a", cut(1000)))
    assert len(server.seen) == 3
    with pytest.raises(TransferError, match="the server answered 503"):
        client.fetch(server.serve("/b", status(503)))
    with pytest.raises(TransferError, match="broke off the connection"):
        client.fetch(server.serve("/c", drop))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 1.0),
        ("86400", 60.0),
        ("nonsense", 1.0),
        ("-5", 1.0),
        ("9" * 400, 60.0),
        (formatdate(time.time() + 86400, usegmt=True), 60.0),
        (formatdate(time.time() - 86400, usegmt=True), 1.0),
    ],
    ids=["seconds", "none", "a day", "nonsense", "negative", "endless", "tomorrow", "yesterday"],
)
def test_retry_after_is_respected_within_bounds(header: str, seconds: float, server: Server, client: Client) -> None:
    client.fetch(server.serve("/a", status(429, Retry_After=header), whole))
    assert client.waits.seconds == [seconds]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (401, "needs a login"),
        (403, "does not give it to everybody"),
        (404, "typing errors"),
        (410, "was removed"),
        (204, ""),
        (206, ""),
        (304, ""),
        (418, ""),
    ],
)
def test_lasting_answer_is_not_tried_again(number: int, hint: str, server: Server, client: Client) -> None:
    with pytest.raises(TransferError, match=f"/a could not be fetched: the server answered {number}") as caught:
        client.fetch(server.serve("/a", status(number)))
    assert hint in str(caught.value.hint)
    assert len(server.seen) == 1


def test_stalled_answer_ends(server: Server, client: Client) -> None:
    client.settings = HttpSettings(read_timeout=0.3, attempts=2)
    started = time.monotonic()
    with pytest.raises(TransferError, match=r"nothing came from the server for 0\.3 s"):
        client.fetch(server.serve("/a", stall))
    assert time.monotonic() - started < 5
    client.fetch(server.serve("/b", stall, whole))
    assert client.sink.data == CONTENT


def test_server_that_takes_no_connection(client: Client) -> None:
    client.settings = HttpSettings(connect_timeout=0.3, attempts=1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):  # a queue that is full drops further connections without an answer
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
            waiting.append(each)
        time.sleep(0.1)
        with pytest.raises(TransferError, match=r"did not take the connection within 0\.3 s"):
            client.fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a")
        for each in waiting:
            each.close()


def test_closed_port_and_unknown_name(client: Client) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(TransferError, match="connection refused"):
            client.fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/a")
    assert client.waits.seconds == [1.0, 2.0]
    with pytest.raises(TransferError, match="name of the server cannot be resolved"):
        client.fetch("https://no-such-host.example/a")
    assert len(client.waits.seconds) == 2


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "x-gzip", "gzip, identity"])
def test_compressed_answer_is_refused(encoding: str, server: Server, client: Client) -> None:
    url = server.serve("/a", lambda handler: handler.answer(200, gzip.compress(CONTENT), Content_Encoding=encoding))
    with pytest.raises(TransferError, match="comes compressed"):
        client.fetch(url)
    assert client.sink.data == b""
    assert len(server.seen) == 1


def test_identity_is_no_compression(server: Server, client: Client) -> None:
    client.fetch(server.serve("/a", lambda handler: handler.answer(200, CONTENT, Content_Encoding="identity")))
    assert client.sink.data == CONTENT


def test_too_large_is_refused_before_it_comes(server: Server, client: Client) -> None:
    with pytest.raises(TransferError, match="has 9000000000000 bytes; at most 1000"):
        client.fetch(
            server.serve("/a", lambda handler: handler.answer(200, b"x", Content_Length="9000000000000")),
            max_bytes=1000,
        )
    assert client.sink.expected == []


@pytest.mark.parametrize("length", ["5, 700000", "abc", "-1"])
def test_nonsense_as_length_never_passes_for_a_size(length: str, server: Server, client: Client) -> None:
    url = server.serve("/a", lambda handler: handler.answer(200, CONTENT, Content_Length=length))
    try:
        client.fetch(url)
    except TransferError:
        return
    assert client.sink.expected == [None]


@pytest.mark.timeout(30)
def test_slow_answer_can_be_cancelled(server: Server, client: Client) -> None:
    token = CancelToken()

    def drip(handler: Handler) -> None:
        handler.answer(200, b"x", Content_Length=str(len(CONTENT)))
        while not handler.server.stopped.wait(0.05):
            handler.wfile.write(b"x")

    class Impatient:
        written = 0

        def expect(self, size: int | None, version: str = "") -> None: ...
        def restart(self) -> None: ...

        def write(self, data: bytes) -> None:
            self.written += len(data)
            if self.written > 3:
                token.cancel()
            token.raise_if_cancelled()

    store = HttpStorage(client.settings, attrs.evolve(client.context, cancel=token))
    with pytest.raises(CancelledError):
        store.fetch(FetchRequest(server.serve("/a", drip), True, 1 << 30), Impatient())
    with pytest.raises(CancelledError):
        store.fetch(FetchRequest(server.url + "/a", True, 1 << 30), Impatient())
    assert len(server.seen) == 1


def test_cancel_ends_the_pause(server: Server, client: Client) -> None:
    token = CancelToken()

    def unwanted(handler: Handler) -> None:
        token.cancel()
        handler.answer(503, Retry_After="60")

    with pytest.raises(CancelledError):
        client.fetch(server.serve("/a", unwanted), cancel=token)
    assert len(server.seen) == 1


def test_offline_opens_no_connection(server: Server, client: Client) -> None:
    with pytest.raises(OfflineError, match="/a needs a connection"):
        client.fetch(server.serve("/a", whole), offline=True)
    assert server.seen == []


@pytest.mark.parametrize(
    "settings",
    [HttpSettings(connect_timeout=0), HttpSettings(read_timeout=-1), HttpSettings(attempts=0), HttpSettings(pause=-1)],
)
def test_settings_that_make_no_sense(settings: HttpSettings, client: Client) -> None:
    client.settings = settings
    with pytest.raises(ConfigurationError):
        client.fetch("https://host/a")


@pytest.mark.parametrize(
    "url",
    ["https://", "https:///a", "https://host:0/a", "https://host:99999/a", "http://[::1/a", "https:a", "ftp://host/a"],
)
def test_what_is_no_address(url: str, client: Client) -> None:
    with pytest.raises(TransferError, match=r"address|URL"):
        client.fetch(url)


def test_proxy_that_breaks_off_is_asked_again(proxy: Server, client: Client) -> None:
    proxy.answers["http://files.example/a"] = [drop, whole]
    client.fetch("http://files.example/a", proxies={"http": proxy.url}, waivers=frozenset({"plain-http"}))
    assert client.sink.data == CONTENT
    assert client.waits.seconds == [1.0]
