"""Several connections for one large file, where one alone is slow: in order, complete, and never for their own sake."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from medperf_core.errors import CancelledError, TransferError
from medperf_core.plugin import CancelToken, FetchRequest
from medperf_storage import blocks, http
from medperf_storage.http import HttpStorage

if TYPE_CHECKING:
    from conftest import Client, Handler, Server

CONTENT = random.Random(7).randbytes(400_000)
OTHER = random.Random(8).randbytes(400_000)
ETAG = '"v1"'
BLOCK = 10_000


@attrs.define
class Slow:
    """A server that holds back whoever asks for the whole file, and not who asks for a part.

    Attributes:
        etag, accept: what it says of the whole file.
        gate: how many parts it sends at the same time; others are refused.
        meet: how many parts it waits for before it sends the first ones.
        cut: what it sends of the first requests for parts, before it breaks off.
    """

    content: bytes = CONTENT
    etag: str = ETAG
    accept: str = "bytes"
    gate: int = 100
    meet: int = 1
    cut: list[int] = attrs.field(factory=list)
    parts: list[tuple[int, int]] = attrs.field(factory=list)
    sent: int = 0
    _now: int = 0
    _lock: Any = attrs.field(factory=threading.Lock)
    _met: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, handler: Handler) -> None:
        wanted = handler.headers.get("Range", "")
        if not wanted:
            self._drip(handler)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if not last:
            self.part(handler, int(first), len(self.content) - 1)
            return
        with self._lock:
            self._now += 1
            refused = self._now > self.gate
        try:
            if refused:
                handler.answer(503)
            else:
                if self._now >= self.meet:
                    self._met.set()
                assert self._met.wait(10)
                self.part(handler, int(first), int(last))
        finally:
            with self._lock:
                self._now -= 1

    def part(self, handler: Handler, first: int, last: int, kept: int | None = None, **headers: str) -> None:
        part = self.content[first : last + 1]
        with self._lock:
            self.parts.append((first, last))
            if kept is None:
                kept = self.cut.pop() if self.cut else len(part)
            self.sent += len(part[:kept])
        handler.answer(
            206,
            part[:kept],
            **{
                "ETag": self.etag,
                "Content_Length": str(len(part)),
                "Content_Range": f"bytes {first}-{last}/{len(self.content)}",
                **headers,
            },
        )

    def _drip(self, handler: Handler) -> None:
        headers = {"Accept_Ranges": self.accept} if self.accept else {}
        handler.answer(200, Content_Length=str(len(self.content)), ETag=self.etag, **headers)
        for start in range(0, len(self.content), 1000):
            handler.wfile.write(self.content[start : start + 1000])
            if start < 50_000 and handler.server.stopped.wait(0.01):
                return


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are large enough, and patience is short."""
    monkeypatch.setattr(http, "WATCHED_SECONDS", 0.05)
    monkeypatch.setattr(http, "WORTH_MORE", 100_000)
    monkeypatch.setattr(http, "BLOCK", BLOCK)
    monkeypatch.setattr(blocks, "CHUNK", 3000)


def fetching_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "fetching"]


@pytest.fixture(autouse=True)
def no_thread_is_left(server: Server) -> Any:
    yield
    assert not fetching_threads()


def test_slow_file_comes_through_several_connections(server: Server, client: Client) -> None:
    slow = Slow(meet=4)
    info = client.fetch(server.serve("/a", slow))
    assert (client.sink.data, client.sink.restarts, client.sink.expected) == (CONTENT, 0, [len(CONTENT)])
    assert (info.size, info.version, info.joined) == (len(CONTENT), ETAG, True)
    assert len(slow.parts) == len(set(slow.parts)) and all(last - first < BLOCK for first, last in slow.parts)


@pytest.mark.parametrize(
    "slow", [Slow(accept=""), Slow(accept="none"), Slow(etag='W/"v1"'), Slow(etag="")], ids=lambda slow: repr(slow.etag)
)
def test_not_where_the_server_does_not_offer_it(slow: Slow, server: Server, client: Client) -> None:
    client.fetch(server.serve("/a", slow))
    assert (client.sink.data, slow.parts) == (CONTENT, [])


@pytest.mark.parametrize(("name", "value"), [("SLOW", 1), ("WORTH_MORE", 1 << 30)])
def test_not_where_it_does_not_pay(
    name: str, value: int, server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, name, value)
    slow = Slow()
    client.fetch(server.serve("/a", slow))
    assert (client.sink.data, slow.parts) == (CONTENT, [])


def test_not_where_nobody_wants_it(server: Server, client: Client) -> None:
    slow = Slow()
    client.fetch(server.serve("/a", slow), whole=True)
    assert (client.sink.data, slow.parts) == (CONTENT, [])
    client.settings = attrs.evolve(client.settings, connections=1)
    client.fetch(server.serve("/b", slow))
    assert (client.sink.data, slow.parts) == (CONTENT, [])


def test_cut_parts_go_on_where_they_were(server: Server, client: Client) -> None:
    slow = Slow(cut=[1, 5000, 9999, 1234, 77])
    client.settings = attrs.evolve(client.settings, pause=0.0)
    client.fetch(server.serve("/a", slow))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert slow.sent == len(CONTENT) - min(first for first, _ in slow.parts)


def test_server_that_allows_few_connections(server: Server, client: Client) -> None:
    slow = Slow(gate=1)
    client.settings = attrs.evolve(client.settings, pause=0.0)
    client.fetch(server.serve("/a", slow))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)


def test_connections_that_get_nothing_are_given_up(server: Server, client: Client) -> None:
    slow, refused = Slow(), []

    def answer(handler: Handler) -> None:
        if "Range" in handler.headers and len(refused) < 6:
            refused.append(handler.headers["Range"])
            handler.answer(503)
        else:
            slow(handler)

    client.settings = attrs.evolve(client.settings, pause=0.0, attempts=2)
    client.fetch(server.serve("/a", answer))
    assert (client.sink.data, client.sink.restarts, len(refused)) == (CONTENT, 0, 6)
    assert all(last - first < BLOCK for first, last in slow.parts)


def test_server_that_answers_no_more_ends_with_its_reason(server: Server, client: Client) -> None:
    slow = Slow()

    def answer(handler: Handler) -> None:
        if "Range" in handler.headers:
            handler.answer(503)
        else:
            slow(handler)

    client.settings = attrs.evolve(client.settings, pause=0.0)
    with pytest.raises(TransferError, match="503"):
        client.fetch(server.serve("/a", answer))
    assert client.sink.data == CONTENT[: len(client.sink.data)]


@pytest.mark.parametrize("status", [200, 403, 404, 416])
def test_parts_that_are_refused_leave_one_connection(status: int, server: Server, client: Client) -> None:
    slow = Slow()

    def answer(handler: Handler) -> None:
        wanted = handler.headers.get("Range", "")
        if wanted and not wanted.endswith("-"):
            handler.answer(status)
        else:
            slow(handler)

    client.fetch(server.serve("/a", answer))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert [last for _, last in slow.parts] == [len(CONTENT) - 1]


@pytest.mark.parametrize(
    "headers", [{"Content_Range": "bytes 0-9999/400000"}, {"ETag": '"v2"'}, {"Content_Encoding": "gzip"}]
)
def test_wrong_parts_are_not_used(headers: dict[str, str], server: Server, client: Client) -> None:
    slow, wrong, seen = Slow(), Slow(OTHER), []

    def answer(handler: Handler) -> None:
        wanted = handler.headers.get("Range", "")
        if wanted and not wanted.endswith("-"):
            seen.append(wanted)
            first, last = (int(each) for each in wanted.removeprefix("bytes=").split("-"))
            wrong.part(handler, first, last, **headers)
        else:
            slow(handler)

    client.fetch(server.serve("/a", answer))
    assert seen and client.sink.data == CONTENT


def test_refused_parts_are_asked_for_once(server: Server, client: Client) -> None:
    """Also if what then comes through one connection is slow again."""
    slow, seen = Slow(), []

    def answer(handler: Handler) -> None:
        wanted = handler.headers.get("Range", "")
        if wanted and not wanted.endswith("-"):
            seen.append(wanted)
            handler.answer(403)
        elif wanted:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            slow.part(handler, start, len(CONTENT) - 1, kept=0)
            for position in range(start, len(CONTENT), 1000):
                handler.wfile.write(CONTENT[position : min(position + 1000, len(CONTENT))])
                if position < start + 50_000:
                    handler.server.stopped.wait(0.005)
        else:
            slow(handler)

    client.fetch(server.serve("/a", answer))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert 1 <= len(seen) <= client.settings.connections


def test_file_that_changes_meanwhile_is_begun_anew(server: Server, client: Client) -> None:
    old, new = Slow(), Slow(OTHER, '"v2"')

    def answer(handler: Handler) -> None:
        now = new if len(old.parts) > 5 else old
        if "Range" in handler.headers and handler.headers["If-Range"] != now.etag:
            del handler.headers["Range"]
        now(handler)

    client.fetch(server.serve("/a", answer))
    assert (client.sink.data, client.sink.restarts) == (OTHER, 1)


class Stalled:
    """Sends parts but for one block, which never comes."""

    def __init__(self) -> None:
        self.slow = Slow()
        self.waits = threading.Event()
        self.first = 0

    def __call__(self, handler: Handler) -> None:
        if "Range" in handler.headers and not self.waits.is_set():
            self.first = int(handler.headers["Range"].removeprefix("bytes=").partition("-")[0])
            self.waits.set()
            handler.answer(206, ETag=ETAG, Content_Length="10000", Content_Range=self._range(handler))
            handler.wfile.flush()
            handler.server.stopped.wait(30)
        else:
            self.slow(handler)

    def _range(self, handler: Handler) -> str:
        return f"bytes {handler.headers['Range'].removeprefix('bytes=')}/{len(CONTENT)}"


@pytest.mark.timeout(30)
def test_one_part_that_does_not_come_holds_the_others_up(server: Server, client: Client) -> None:
    """What comes too early is never more than the window holds."""
    stalled, token = Stalled(), CancelToken()
    store = HttpStorage(client.settings, attrs.evolve(client.context, cancel=token))
    url = server.serve("/a", stalled)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            store.fetch(FetchRequest(url, True, 1 << 30), client.sink)
        except CancelledError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert stalled.waits.wait(10)
    while len(stalled.slow.parts) < http.WINDOW - 1:
        assert not server.stopped.wait(0.01)
    assert not server.stopped.wait(0.3)
    assert max(first for first, _ in stalled.slow.parts) < stalled.first + http.WINDOW * BLOCK
    token.cancel()
    thread.join(10)
    assert not thread.is_alive() and failures
    assert not fetching_threads()


def test_error_of_the_sink_ends_all_connections(server: Server, client: Client) -> None:
    class Full:
        written = 0

        def expect(self, size: int | None, version: str = "") -> None: ...
        def restart(self) -> None: ...

        def write(self, data: bytes) -> None:
            self.written += len(data)
            if self.written > 100_000:
                raise TransferError("The disk is full.")

    store = HttpStorage(client.settings, client.context)
    with pytest.raises(TransferError, match="disk is full"):
        store.fetch(FetchRequest(server.serve("/a", Slow()), True, 1 << 30), Full())


def test_through_a_proxy(proxy: Server, client: Client) -> None:
    slow = Slow(meet=4)
    proxy.answers["http://files.example/a"] = [slow]
    client.fetch("http://files.example/a", proxies={"http": proxy.url}, waivers=frozenset({"plain-http"}))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert all(last - first < BLOCK for first, last in slow.parts), client.events
