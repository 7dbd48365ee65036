"""After a cut at any byte a fetch goes on from there, and never with another file."""

from __future__ import annotations

import random
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from medperf_core.errors import TransferError
from medperf_core.plugin import Notice
from medperf_storage.ranges import part_size, strong_version, whole_size

if TYPE_CHECKING:
    from conftest import Answer, Client, Handler, Server

CONTENT = random.Random(5).randbytes(300_000)
OTHER = random.Random(6).randbytes(300_000)
ETAG = '"v1"'


def first(position: int, content: bytes = CONTENT, etag: str = ETAG, **headers: str) -> Answer:
    """The whole file, cut."""

    def answer(handler: Handler) -> None:
        handler.answer(200, content[:position], Content_Length=str(len(content)), ETag=etag, **headers)

    return answer


def ranged(content: bytes = CONTENT, etag: str = ETAG, until: int | None = None) -> Answer:
    """A server that knows ranges; sends up to ``until`` and no further."""

    def answer(handler: Handler) -> None:
        wanted = handler.headers.get("Range", "")
        if not wanted or handler.headers.get("If-Range") != etag:
            handler.answer(200, content, ETag=etag)
            return
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        part = content[start:until]
        handler.answer(
            206,
            part,
            ETag=etag,
            Content_Length=str(len(content) - start),
            Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}",
        )

    return answer


def asked(server: Server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.seen]


@pytest.mark.parametrize("position", [1, 1000, len(CONTENT) // 2, len(CONTENT) - 1])
def test_goes_on_at_the_byte(position: int, server: Server, client: Client) -> None:
    info = client.fetch(server.serve("/a", first(position), ranged()))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert asked(server) == [None, f"bytes={position}-"]
    assert server.seen[1][1]["If-Range"] == ETAG
    assert (info.size, info.version, info.joined) == (len(CONTENT), ETAG, True)
    (notice,) = [event.message for event in client.events if isinstance(event, Notice)]
    assert f"going on at byte {position}" in notice


def test_more_cuts_than_attempts_are_no_failure_while_bytes_come(server: Server, client: Client) -> None:
    steps = [50_000 * step for step in range(2, 6)]
    client.fetch(server.serve("/a", first(50_000), *(ranged(until=step) for step in steps), ranged()))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert client.waits.seconds == [1.0] * 5


def test_attempts_without_a_byte_are_counted(server: Server, client: Client) -> None:
    url = server.serve("/a", first(1000), lambda handler: handler.answer(503))
    with pytest.raises(TransferError, match=r"503 .*attempt 3 of 3"):
        client.fetch(url)
    assert client.sink.data == CONTENT[:1000]
    assert asked(server) == [None, "bytes=1000-", "bytes=1000-"]


def test_server_without_ranges_sends_all_again_and_not_for_ever(server: Server, client: Client) -> None:
    client.fetch(server.serve("/a", first(1000), first(2000), lambda handler: handler.answer(200, CONTENT, ETag=ETAG)))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 2)
    before = len(server.seen)
    with pytest.raises(TransferError, match=r"cut short .*attempt 3 of 3"):
        client.fetch(server.serve("/b", first(1000)))
    assert len(server.seen) == before + 3


def test_file_that_changed_is_begun_anew(server: Server, client: Client) -> None:
    info = client.fetch(server.serve("/a", first(100_000), ranged(OTHER, '"v2"')))
    assert (client.sink.data, client.sink.restarts) == (OTHER, 1)
    assert (info.version, info.joined) == ('"v2"', False)


def test_file_that_changes_each_time_ends(server: Server, client: Client) -> None:
    answers = [first(1000, etag=f'"{number}"') for number in range(9)]
    with pytest.raises(TransferError, match="attempt 3 of 3"):
        client.fetch(server.serve("/a", *answers))
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content_Range": "bytes 999-299999/300000"},
        {"Content_Range": "bytes 1001-299999/300000"},
        {"Content_Range": "bytes 1000-299998/300000"},
        {"Content_Range": "bytes 1000-299999/*"},
        {"Content_Range": "bytes 1000-299999/300001"},
        {"Content_Range": "bytes 1000-300000/300001"},
        {"Content_Range": "bytes */300000"},
        {"Content_Range": "items 1000-299999/300000"},
        {"Content_Range": "bytes 1000-299999/300000", "Content_Length": "5"},
        {"Content_Range": "bytes 1000-299999/300000", "ETag": '"v2"'},
        {"Content_Range": "bytes 1000-299999/300000", "ETag": 'W/"v1"'},
        {"Content_Type": "multipart/byteranges; boundary=x"},
    ],
)
def test_part_that_is_not_the_one_asked_for_is_not_used(
    headers: dict[str, str], server: Server, client: Client
) -> None:
    def wrong(handler: Handler) -> None:
        if "Range" not in handler.headers:
            handler.answer(200, CONTENT, ETag=ETAG)
            return
        handler.answer(206, CONTENT[1000:], **{"ETag": ETAG, **headers})

    client.fetch(server.serve("/a", first(1000), wrong))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 1)
    assert asked(server) == [None, "bytes=1000-", None]


def test_part_without_the_etag_is_not_used(server: Server, client: Client) -> None:
    def part(handler: Handler) -> None:
        handler.answer(206, OTHER[1000:], Content_Range="bytes 1000-299999/300000")

    client.fetch(server.serve("/a", first(1000), part, ranged()))
    assert client.sink.data == CONTENT


def test_range_that_cannot_be_had(server: Server, client: Client) -> None:
    def beyond(handler: Handler) -> None:
        handler.answer(416, Content_Range="bytes */300000")

    client.fetch(server.serve("/a", first(1000), beyond, ranged()))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 1)
    assert asked(server) == [None, "bytes=1000-", None]


def test_compressed_part_is_refused(server: Server, client: Client) -> None:
    def packed(handler: Handler) -> None:
        handler.answer(
            206, CONTENT[1000:], ETag=ETAG, Content_Range="bytes 1000-299999/300000", Content_Encoding="gzip"
        )

    with pytest.raises(TransferError, match="comes compressed"):
        client.fetch(server.serve("/a", first(1000), packed))


def test_part_that_goes_on_too_long_is_not_mixed(server: Server, client: Client) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(206)
        for name, value in (("ETag", ETAG), ("Content-Range", "bytes 1000-299999/300000")):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(CONTENT[1000:] + b"more")

    client.fetch(server.serve("/a", first(1000), endless, ranged()))
    assert client.sink.data == CONTENT


@pytest.mark.parametrize("etag", ['W/"v1"', "v1", '"v 1"', '""', '"a", "b"', '"' + "x" * 500 + '"'])
def test_version_that_is_not_strong_is_not_gone_on_with(etag: str, server: Server, client: Client) -> None:
    info = client.fetch(server.serve("/a", first(1000, etag=etag), first(len(CONTENT), etag=etag)))
    assert client.sink.data == CONTENT
    assert asked(server) == [None, None]
    assert info.version == ""


def test_later_fetch_goes_on(server: Server, client: Client) -> None:
    url = server.serve("/a", ranged())
    info = client.fetch(url, start=CONTENT[:777], version=ETAG)
    assert (client.sink.data, client.sink.restarts, info.joined) == (CONTENT, 0, True)
    assert client.sink.expected == [len(CONTENT)]
    assert asked(server) == ["bytes=777-"]


@pytest.mark.parametrize("version", ['"v2"', 'W/"v1"', "nonsense", '"v1"\r\nHost: evil', ""])
def test_later_fetch_of_another_version_begins_anew(version: str, server: Server, client: Client) -> None:
    client.fetch(server.serve("/a", ranged()), start=OTHER[:777], version=version)
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 1)


def test_whole_is_taken_from_one_answer(server: Server, client: Client) -> None:
    info = client.fetch(server.serve("/a", first(1000), ranged()), whole=True)
    assert (client.sink.data, client.sink.restarts, info.joined) == (CONTENT, 1, False)
    assert asked(server) == [None, None]


def test_times_are_versions_only_where_they_can_be_relied_on() -> None:
    changed, soon, later = (formatdate(1_700_000_000 + seconds, usegmt=True) for seconds in (0, 59, 60))
    assert strong_version({"Last-Modified": changed, "Date": later}) == changed
    assert strong_version({"Last-Modified": changed, "Date": soon}) == ""
    assert strong_version({"Last-Modified": changed}) == ""
    assert strong_version({"Last-Modified": changed, "Date": later, "ETag": 'W/"1"'}) == ""
    assert strong_version({"Last-Modified": "Sun, 99 Nov 1994 08:49:37 GMT", "Date": later}) == ""
    part = {"Content-Range": "bytes 5-9/10"}
    assert part_size(part, changed, 5) == 10
    assert part_size({**part, "Last-Modified": changed}, changed, 5) == 10
    assert part_size({**part, "Last-Modified": later}, changed, 5) is None
    assert part_size({"Content-Range": "bytes 5-8/10", "ETag": ETAG}, ETAG, 5, 8) == 10
    assert part_size({"Content-Range": "bytes 5-9/10", "ETag": ETAG}, ETAG, 5, 8) is None
    assert part_size({"Content-Range": "bytes 5-12/10", "ETag": ETAG}, ETAG, 5, 12) is None
    assert part_size({"Content-Range": "bytes 4-9/10", "ETag": ETAG}, ETAG, 5) is None
    assert part_size({"Content-Range": "bytes 5-9/10", "ETag": ETAG}, ETAG, 5, size=11) is None
    assert whole_size({"Content-Length": "9" * 19}) is None


def test_redirected_file_is_gone_on_with(proxy: Server, client: Client) -> None:
    proxy.answers = {
        "http://files.example/a?token=s3cret": [lambda handler: handler.answer(302, Location="/b")],
        "http://files.example/b": [first(1000), ranged()],
    }
    client.fetch("http://files.example/a?token=s3cret", proxies={"http": proxy.url}, waivers=frozenset({"plain-http"}))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert "s3cret" not in repr(client.events)
