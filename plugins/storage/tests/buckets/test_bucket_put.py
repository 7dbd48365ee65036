"""Uploading to buckets of both clouds: large files, nothing replaced, nothing left of what was interrupted."""

from __future__ import annotations

import hashlib
import os
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest
import requests

from medperf_core.errors import CancelledError, TransferError
from medperf_core.plugin import CancelToken
from medperf_core.plugin.storage import PutRequest

MIB = 1 << 20


def change_location(front: Any) -> None:
    """The server gives its own address for sessions, not that of the front."""

    def change(method: str, path: str, answer: Any) -> Any:
        headers = {name: value.replace(front.behind.geturl(), front.url) for name, value in answer[1].items()}
        return answer[0], headers, answer[2]

    front.change = change


LARGE = os.urandom(27 * MIB + 5)
"""Sent in several parts."""


def test_a_large_file_arrives_and_is_counted_once(bucket: Any, person: Any) -> None:
    store = bucket.store(person.context)
    stored = person.put(store, bucket.url("a/large.bin"), LARGE)
    assert stored.size == sum(person.sent) == len(LARGE)
    assert min(person.sent) > 0
    assert store.look(bucket.url("a/large.bin")) == stored
    person.fetch(store, bucket.url("a/large.bin"))
    assert person.sink.data == LARGE
    assert not list(person.folder.glob("cache/*/uploads/*"))


def test_nothing_is_replaced_by_a_large_file(bucket: Any, person: Any) -> None:
    url = bucket.put("large.bin", b"somebody's")
    with pytest.raises(TransferError, match="already; it was not replaced"):
        person.put(bucket.store(person.context), url, LARGE)
    person.fetch(bucket.store(person.context), url)
    assert person.sink.data == b"somebody's"
    assert not person.sent


def test_what_appears_while_a_large_file_is_sent_is_not_replaced(s3_bucket: Any, person: Any) -> None:
    store, url = s3_bucket.store(person.context), s3_bucket.url("large.bin")
    path = person.folder / "large"
    path.write_bytes(LARGE)
    asked = iter([lambda: s3_bucket.put("large.bin", b"faster")])

    def on_bytes(count: int) -> None:
        next(asked, lambda: "")()

    with pytest.raises(TransferError, match="already; it was not replaced"):
        store.put(PutRequest(url, path, len(LARGE), hashlib.sha256(LARGE).hexdigest()), on_bytes)
    person.fetch(store, url)
    assert person.sink.data == b"faster"
    assert not s3_bucket.uploads()


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": len(LARGE) - 1}, {"size": len(LARGE) + 1}])
def test_a_large_file_that_is_another_is_not_stored(bucket: Any, person: Any, wrong: Any) -> None:
    with pytest.raises(TransferError, match="is not what was to be uploaded"):
        person.put(bucket.store(person.context), bucket.url("large.bin"), LARGE, **wrong)
    assert not bucket.names()
    assert bucket.scheme == "gs" or not bucket.uploads()


@pytest.mark.parametrize("after", [0, 9 * MIB])
def test_a_cancelled_upload_leaves_nothing(bucket: Any, person: Any, after: int) -> None:
    path, sent = person.folder / "large", [0]
    path.write_bytes(LARGE)

    def on_bytes(count: int) -> None:
        sent[0] += count
        if sent[0] > after:
            raise CancelledError("The work was interrupted.")

    request = PutRequest(bucket.url("large.bin"), path, len(LARGE), hashlib.sha256(LARGE).hexdigest())
    with pytest.raises(CancelledError):
        bucket.store(person.context).put(request, on_bytes)
    assert not bucket.names()
    assert bucket.scheme == "gs" or not bucket.uploads()
    assert not list(person.folder.glob("cache/*/uploads/*"))


def test_a_cancel_token_ends_an_upload(bucket: Any, person: Any) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        person.put(bucket.store(attrs.evolve(person.context, cancel=token)), bucket.url("x"), LARGE)
    assert not bucket.names()


def test_a_server_that_fails_now_and_then_gets_it_all(bucket: Any, front: Any, person: Any) -> None:
    count = [0]

    def fail(method: str, path: str) -> Any:
        count[0] += 1
        if count[0] % 3 == 0:
            return 503, {}, b""
        # The server of these tests takes a question for the end of an upload.
        asks_how_far = front.seen[-1][2].get("content-range", "").startswith("bytes */")
        return (308, {}, b"") if asks_how_far else None

    front.instead = fail
    change_location(front)
    store = bucket.store(person.context, endpoint=front.url, parallel=1)
    for name, content in (("large.bin", LARGE), ("small.bin", LARGE[:1000])):
        assert person.put(store, bucket.url(name), content).size == len(content) == sum(person.sent)
        person.fetch(bucket.store(person.context), bucket.url(name))
        assert person.sink.data == content


def test_an_upload_to_google_goes_on_where_the_server_is(gs_bucket: Any, front: Any, person: Any) -> None:
    part, step = MIB * 5 // 2, [0]

    def cut_once(method: str, path: str) -> Any:
        span = front.seen[-1][2].get("content-range", "")
        if span.startswith("bytes */"):
            return 308, {"Range": f"bytes=0-{part - 1}"}, b""
        if span and not step[0]:
            step[0] = 1
            headers = {"Content-Range": f"bytes 0-{part - 1}/{len(LARGE)}"}
            answer = requests.put(gs_bucket.server + path, data=front.body[:part], headers=headers)
            assert answer.status_code == 308
            return 502, {}, b""
        return None

    front.instead = cut_once
    store = gs_bucket.store(person.context, endpoint=front.url)
    change_location(front)
    assert person.put(store, gs_bucket.url("large.bin"), LARGE).size == len(LARGE) == sum(person.sent)
    assert front.seen[-1][2]["content-range"] == f"bytes {part}-{len(LARGE) - 1}/{len(LARGE)}"
    person.fetch(store, gs_bucket.url("large.bin"))
    assert person.sink.data == LARGE


def test_a_session_at_another_server_is_not_used(gs_bucket: Any, front: Any, person: Any, service: Any) -> None:
    """The login would be sent there. What stands behind a backslash is the path for some and the server for others."""
    other = service(lambda method, path: b"{}")
    here, there = front.url.removeprefix("http://"), other.url.removeprefix("http://")
    for elsewhere in (
        f"{other.url}/x",
        f"http://{there}\\@{here}/up",
        f"http://{here}\\@{there}/up",
        f"http://{here}@{there}/up",
        f"http:\\\\{there}/up",
        f"https://{here}/up",
        "https://storage.googleapis.com.example/x",
        f"{front.url}/a b",
        "//[",
        "",
    ):
        front.change = lambda method, path, answer, to=elsewhere: (answer[0], {"Location": to}, answer[2])
        with pytest.raises(TransferError, match="not one of Google Cloud Storage"):
            person.put(gs_bucket.store(person.context, endpoint=front.url), gs_bucket.url("x"), LARGE)
    assert not gs_bucket.names() and not other.seen


@pytest.mark.parametrize("host", ["LOCALHOST:{port}", "LocalHost:{port}/", "127.0.0.1:0{port}"])
def test_a_signature_is_of_the_host_that_is_asked(s3_bucket: Any, person: Any, host: str) -> None:
    """However the endpoint is written; the server checks it."""
    port = s3_bucket.door.rpartition(":")[2]
    store = s3_bucket.store(person.context, endpoint=f"http://{host.format(port=port)}")
    person.put(store, s3_bucket.url("k"), b"x")
    assert s3_bucket.content("k") == b"x"


@pytest.mark.parametrize(
    ("written", "meant"), [("http://127.0.0.1:80", "127.0.0.1"), ("https://S3.Ward:443/", "s3.ward")]
)
def test_a_port_that_goes_without_saying_is_not_signed(s3_bucket: Any, person: Any, written: str, meant: str) -> None:
    store = s3_bucket.store(person.context, endpoint=written)
    address = store.remote(store.address(s3_bucket.url("k"))).address
    assert urlsplit(address).netloc == meant


def test_a_version_cannot_be_chosen(bucket: Any, person: Any) -> None:
    suffix = "?versionId=abc" if bucket.scheme == "s3" else "#17"
    with pytest.raises(TransferError, match="names a version"):
        person.put(bucket.store(person.context), bucket.url("x") + suffix, b"x")
