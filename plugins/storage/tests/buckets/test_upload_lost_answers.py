"""Uploads whose answers are lost, or are not ones of the server: what is there is told from somebody else's."""

from __future__ import annotations

import os
import threading
from typing import Any

import attrs
import pytest

from medperf_core.errors import AuthenticationError, CancelledError, TransferError
from medperf_core.plugin import Notice

MIB = 1 << 20
LARGE = os.urandom(9 * MIB)
SMALL = LARGE[:100_000]
LOST = (502, {}, b"<Error><Code>BadGateway</Code></Error>")


class Losing:
    """Loses answers to what puts a file at its address, after the server did it.

    Attributes:
        times: how many are still to be lost.
        then: done once after the first of them.
        deny_looks: whether nobody may see what is there.
    """

    def __init__(self, front: Any, times: int) -> None:
        self._front = front
        self.times = times
        self.deny_looks = False
        self.then: Any = lambda: None
        front.change, front.instead = self.change, self.instead

    def change(self, method: str, path: str, answer: Any) -> Any:
        behind = self._front.behind.geturl()
        headers = {name: text.replace(behind, self._front.url) for name, text in answer[1].items()}
        puts = method in ("PUT", "POST") and "uploads=" not in path and "partNumber" not in path
        if puts and "uploadType=resumable&if" not in path and answer[0] == 200 and self.times:
            self.times -= 1
            self.then()
            self.then = lambda: None
            return LOST
        return answer[0], headers, answer[2]

    def instead(self, method: str, path: str) -> Any:
        if self._front.seen[-1][2].get("content-range", "").startswith("bytes */"):
            return 503, {}, b""  # the server of these tests does not know this question
        return (403, {}, b"") if self.deny_looks and method in ("HEAD", "GET") else None


@pytest.mark.parametrize("content", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("lost", [1, 9])
def test_a_file_whose_answers_are_lost_is_ours(bucket: Any, front: Any, person: Any, content: bytes, lost: int) -> None:
    Losing(front, lost)
    store, url = bucket.store(person.context, endpoint=front.url), bucket.url("file.bin")
    stored = person.put(store, url, content)
    assert bucket.content("file.bin") == content
    assert stored == store.look(url)
    assert bucket.scheme == "gs" or not bucket.uploads()


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_somebody_elses_file_of_the_same_size_is_not_ours(bucket: Any, front: Any, person: Any, content: bytes) -> None:
    """It takes the place of ours when the answer is lost."""
    losing = Losing(front, 9)
    losing.then = lambda: bucket.put("file.bin", b"\0" * len(content))
    with pytest.raises(TransferError):
        person.put(bucket.store(person.context, endpoint=front.url), bucket.url("file.bin"), content)
    assert bucket.content("file.bin") == b"\0" * len(content)


def test_an_etag_that_is_no_md5_changes_nothing(s3_bucket: Any, front: Any, person: Any) -> None:
    """As in buckets whose objects are encrypted with keys of the owner's."""
    losing = Losing(front, 1)

    def change(method: str, path: str, answer: Any) -> Any:
        status, headers, body = losing.change(method, path, answer)
        return status, {name: '"opaque"' if name.lower() == "etag" else text for name, text in headers.items()}, body

    front.change = change
    assert person.put(s3_bucket.store(person.context, endpoint=front.url), s3_bucket.url("k"), SMALL).version


def test_an_account_that_may_only_write_can_upload(bucket: Any, front: Any, person: Any) -> None:
    """Nobody tells it what is there, not even that nothing is."""
    Losing(front, 0).deny_looks = True
    store = bucket.store(person.context, endpoint=front.url)
    for name, content in (("small.bin", SMALL), ("large.bin", LARGE)):
        assert person.put(store, bucket.url(name), content).size == len(content)
        assert bucket.content(name) == content
    with pytest.raises(TransferError, match="answered 403") as caught:
        store.look(bucket.url("nothing"))
    right = "s3:ListBucket" if bucket.scheme == "s3" else "storage.objects.list"
    assert f"Without the right {right}, what is not there looks as if it were forbidden" in str(caught.value)


@pytest.mark.parametrize("status", [200, 204, 301, 307, 308])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_an_answer_of_something_between_is_no_success(
    bucket: Any, front: Any, person: Any, status: int, content: bytes
) -> None:
    """A page to log in at, or a gateway that sends everybody elsewhere."""
    page = b"" if status == 204 else b"<html>Log in</html>"
    headers = {"Location": "https://login.hospital.example/", **({"ETag": '"page"'} if status > 300 else {})}
    front.instead = lambda method, path: (status, dict(headers), page)
    with pytest.raises(TransferError):
        person.put(bucket.store(person.context, endpoint=front.url), bucket.url("k"), content)
    with pytest.raises(TransferError):
        bucket.store(person.context, endpoint=front.url).look(bucket.url("k"))
    assert not bucket.names()


@pytest.mark.parametrize("status", [200, 308])
def test_a_gateway_after_a_look_is_no_success(bucket: Any, front: Any, person: Any, status: int) -> None:
    headers = {"ETag": '"page"'} if status == 308 else {}
    front.instead = lambda method, path: (
        None if method in ("HEAD", "GET") else (status, dict(headers), b"<html></html>")
    )
    for content in (SMALL, LARGE):
        with pytest.raises(TransferError):
            person.put(bucket.store(person.context, endpoint=front.url), bucket.url("k"), content)
    assert not bucket.names()


@pytest.mark.parametrize(
    ("answer", "told", "asked"),
    [
        ("<Error><Code>InvalidPart</Code></Error>", "InvalidPart", 1),
        ("<Error><Code>InternalError</Code></Error>", "InternalError", 3),
        ("<html>Log in</html>", "not one of S3", 1),
    ],
)
def test_an_error_behind_a_good_status(
    s3_bucket: Any, front: Any, person: Any, answer: str, told: str, asked: int
) -> None:
    """S3 begins to answer before it has put the parts together."""
    completions: list[str] = []

    def instead(method: str, path: str) -> Any:
        if method == "POST" and "uploadId" in path:
            completions.append(path)
            return 200, {}, answer.encode()
        return None

    front.instead = instead
    with pytest.raises(TransferError, match=told):
        person.put(s3_bucket.store(person.context, endpoint=front.url), s3_bucket.url("k"), LARGE)
    assert len(completions) == asked and not s3_bucket.names()


def test_a_server_that_does_not_know_the_condition_replaces_nothing(bucket: Any, front: Any, person: Any) -> None:
    """It would take a small file in place of what is there."""
    bucket.put("k", b"somebody's")
    store = bucket.store(person.context, endpoint=front.url)
    taken: list[str] = []
    front.instead = lambda method, path: taken.append(path) if method in ("PUT", "POST") else None
    with pytest.raises(TransferError, match="already; it was not replaced"):
        person.put(store, bucket.url("k"), SMALL)
    assert not taken


def test_who_has_looked_is_not_made_to_look_again(bucket: Any, front: Any, person: Any) -> None:
    store = bucket.store(person.context, endpoint=front.url)
    person.put(store, bucket.url("k"), SMALL, absent=True)
    assert len(front.seen) == 1
    with pytest.raises(TransferError, match="already; it was not replaced"):
        person.put(store, bucket.url("k"), b"other", absent=True)
    assert bucket.content("k") == SMALL


def test_a_body_is_sent_again_whole_to_another_region(s3_bucket: Any, front: Any, person: Any) -> None:
    """The first server read it before it said where to go."""

    def elsewhere(method: str, path: str) -> Any:
        if "/us-east-1/" in front.seen[-1][2]["authorization"]:
            return None
        return 307, {"x-amz-bucket-region": "us-east-1"}, b""

    front.instead = elsewhere
    store = s3_bucket.store(person.context, endpoint=front.url, region="eu-west-1")
    person.put(store, s3_bucket.url("k"), SMALL, absent=True)
    assert [len(body) for body in front.bodies] == [len(SMALL)] * 2
    assert s3_bucket.content("k") == SMALL
    assert not [each for each in person.events if isinstance(each, Notice)]


def test_a_lost_answer_to_the_beginning_leaves_nothing(s3_bucket: Any, front: Any, person: Any) -> None:
    """The upload that was begun then is unknown to everybody here."""
    lost: list[str] = []

    def change(method: str, path: str, answer: Any) -> Any:
        if method == "POST" and path.endswith("uploads=") and not lost:
            lost.append(path)
            return LOST
        return answer

    front.change = change
    neighbour = s3_bucket.ask("POST", "k-of-another?uploads=")
    person.put(s3_bucket.store(person.context, endpoint=front.url), s3_bucket.url("k"), LARGE)
    assert lost and s3_bucket.content("k") == LARGE
    assert [key for _, key in s3_bucket.uploads_and_keys()] == ["k-of-another"], neighbour.text


@pytest.mark.parametrize("status", [403, 500])
def test_what_could_not_be_removed_is_removed_later(s3_bucket: Any, front: Any, person: Any, status: int) -> None:
    store, url = s3_bucket.store(person.context, endpoint=front.url), s3_bucket.url("k")
    front.instead = lambda method, path: (status, {}, b"") if method == "DELETE" else None
    for sha256 in ("0" * 64, "1" * 64):
        with pytest.raises(TransferError, match="is not what was to be uploaded"):
            person.put(store, url, LARGE, sha256=sha256)
    assert len(s3_bucket.uploads()) == 2
    front.instead = lambda method, path: None
    person.put(store, url, LARGE)
    assert not s3_bucket.uploads() and not list(person.folder.glob("cache/*/uploads/*"))


def test_keys_that_end_do_not_hide_why_it_ended(s3_bucket: Any, person: Any) -> None:
    """They would be needed to remove what was sent."""
    store, ended = s3_bucket.store(person.context), threading.Event()
    store.remote(store.address(s3_bucket.url("k")))
    asker = store._askers[s3_bucket.name]

    def key() -> Any:
        if ended.is_set():
            raise AuthenticationError("The login is over.", hint="Log in again.")
        return asker.key()

    def on_bytes(count: int) -> None:
        ended.set()
        raise CancelledError("The work was interrupted.")

    store._askers[s3_bucket.name] = attrs.evolve(asker, key=key)
    path = person.folder / "large"
    path.write_bytes(LARGE)
    with pytest.raises(CancelledError):
        store.put(person.request(s3_bucket.url("k"), path), on_bytes)
    assert list(person.folder.glob("cache/*/uploads/*"))
