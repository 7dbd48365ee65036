"""Uploads that end before their end: at once, also while the server says nothing or a long pause is on its way."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import attrs
import pytest

from medperf_core.errors import CancelledError, TransferError
from medperf_core.plugin import CancelToken, Notice

MIB = 1 << 20
LARGE = os.urandom(27 * MIB + 5)


class Silent:
    """A server that has no answer to what puts bytes there, until the test is over."""

    def __init__(self, front: Any) -> None:
        self.asked = threading.Event()
        self.over = threading.Event()
        self._front = front
        front.change = self.change
        front.instead = self.instead

    def change(self, method: str, path: str, answer: Any) -> Any:
        behind = self._front.behind.geturl()
        return answer[0], {name: text.replace(behind, self._front.url) for name, text in answer[1].items()}, answer[2]

    def instead(self, method: str, path: str) -> Any:
        if method == "PUT" or "uploadType=multipart" in path:
            self.asked.set()
            self.over.wait(120)
            return 503, {}, b""
        return None


@pytest.fixture
def silent(front: Any) -> Any:
    silent = Silent(front)
    yield silent
    silent.over.set()


@pytest.mark.parametrize("size", [100_000, len(LARGE)], ids=["small", "large"])
def test_a_silent_server_does_not_hold_a_cancelled_upload(
    bucket: Any, front: Any, person: Any, silent: Silent, size: int
) -> None:
    """Its time-outs are longer than this test may last."""
    token = CancelToken()
    store = bucket.store(attrs.evolve(person.context, cancel=token), endpoint=front.url, read_timeout=100.0)
    ended: list[BaseException] = []

    def upload() -> None:
        with pytest.raises(CancelledError) as caught:
            person.put(store, bucket.url("k"), LARGE[:size])
        ended.append(caught.value)

    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    assert silent.asked.wait(20)
    token.cancel()
    thread.join(20)
    assert ended and not bucket.names()


def test_a_server_that_reads_nothing_does_not_hold_a_cancelled_upload(person: Any, s3_bucket: Any) -> None:
    token = CancelToken()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # not all of it may be on its way
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        patient = {"read_timeout": 100.0, "connect_timeout": 100.0}
        store = s3_bucket.store(attrs.evolve(person.context, cancel=token), endpoint=endpoint, **patient)
        ended: list[BaseException] = []

        def upload() -> None:
            with pytest.raises(CancelledError) as caught:
                person.put(store, s3_bucket.url("k"), LARGE[: 8 * MIB], absent=True)
            ended.append(caught.value)

        thread = threading.Thread(target=upload, daemon=True)
        thread.start()
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            while not connection.recv(1, socket.MSG_PEEK):
                pass
            token.cancel()
            thread.join(20)
            assert ended


def test_parts_that_are_no_longer_wanted_are_not_tried_again(s3_bucket: Any, front: Any, person: Any) -> None:
    """One part is refused while others pause before they are sent once more; with pauses as they really are."""
    lock = threading.Lock()
    counts: dict[str, int] = {}

    def instead(method: str, path: str) -> Any:
        if "partNumber" not in path:
            return None
        number = path.partition("partNumber=")[2].partition("&")[0]
        with lock:
            counts[number] = counts.get(number, 0) + 1
        return (403, {}, b"<Error><Code>AccessDenied</Code></Error>") if number == "4" else (503, {}, b"")

    front.instead = instead
    store = s3_bucket.store(person.context, endpoint=front.url, pause=600.0, attempts=9)
    with pytest.raises(TransferError, match="AccessDenied"):
        person.put(store, s3_bucket.url("k"), LARGE)
    assert max(counts.values()) == 1
    assert not [each for each in threading.enumerate() if each.name == "uploading"]
    told = [each.message for each in person.events if isinstance(each, Notice)]
    assert len(told) <= 3 and all("503" in each for each in told)
    assert not s3_bucket.uploads()


def test_whoever_is_told_of_bytes_ends_it_in_a_pause(s3_bucket: Any, front: Any, person: Any) -> None:
    token = CancelToken()
    front.instead = lambda method, path: token.cancel() or (503, {}, b"") if "partNumber" in path else None
    store = s3_bucket.store(attrs.evolve(person.context, cancel=token), endpoint=front.url, pause=600.0)
    with pytest.raises(CancelledError):
        person.put(store, s3_bucket.url("k"), LARGE)
    assert not [each for each in threading.enumerate() if each.name == "uploading"]
    assert not s3_bucket.uploads()
