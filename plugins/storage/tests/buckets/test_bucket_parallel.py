"""Large objects through several connections: how many, how much memory, and that nothing goes on after the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.errors import CancelledError, TransferError
from medperf_core.plugin import CancelToken
from medperf_storage import object_ranges

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB + 17)
BLOCK = 100_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are large enough."""
    monkeypatch.setattr(object_ranges, "BLOCK", BLOCK)
    monkeypatch.setattr(object_ranges, "WORTH_MORE", 5 * BLOCK)


def fetching_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "fetching"]


@attrs.define
class Most:
    """Counts the requests for parts that are answered at the same time."""

    now: int = 0
    most: int = 0
    lock: Any = attrs.field(factory=threading.Lock)

    def __call__(self, method: str, path: str, answer: Any) -> Any:
        with self.lock:
            self.now -= 1
        return answer

    def enter(self, method: str, path: str) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.01)


def test_one_fetch_at_a_time_takes_several_connections(bucket: Any, front: Any, person: Any) -> None:
    url = bucket.put("large.bin", CONTENT)
    store = bucket.store(person.context, endpoint=front.url)
    most = Most()
    front.instead, front.change = most.enter, most
    with store._connections.place:
        person.fetch(store, url)
    assert person.sink.data == CONTENT and most.most == 1
    person.fetch(store, url)
    assert person.sink.data == CONTENT and most.most > 1
    assert store._connections.place.acquire(blocking=False), "the place is free again"


def test_a_place_that_becomes_free_is_taken(bucket: Any, front: Any, person: Any) -> None:
    url = bucket.put("large.bin", CONTENT)
    store = bucket.store(person.context, endpoint=front.url)
    most = Most()
    front.change = most
    store._connections.place.acquire()

    def enter(method: str, path: str) -> None:
        most.enter(method, path)
        if len(front.seen) == 4:
            store._connections.place.release()

    front.instead = enter
    person.fetch(store, url)
    assert person.sink.data == CONTENT and most.most > 1


@pytest.mark.timeout(30)
@pytest.mark.parametrize("how", ["sink", "cancel"])
def test_nothing_goes_on_after_the_end(bucket: Any, front: Any, person: Any, make_held: Any, how: str) -> None:
    """Not even requests that wait for an answer: they are not waited for, and followed by none."""
    url = bucket.put("large.bin", CONTENT)
    free, token, waiting = threading.Event(), CancelToken(), threading.Semaphore(0)

    def instead(method: str, path: str) -> None:
        if len(front.seen) > 2:
            waiting.release()
            free.wait(20)

    front.instead = instead
    sink = make_held(b"")

    class Sink(type(sink)):  # type: ignore[misc]
        def write(self, data: bytes) -> None:
            self.data += data
            for _ in range(3):
                assert waiting.acquire(timeout=10)
            if how == "sink":
                raise TransferError("The disk is full.")
            token.cancel()

    store = bucket.store(attrs.evolve(person.context, cancel=token), endpoint=front.url)
    with pytest.raises((TransferError, CancelledError), match="disk is full" if how == "sink" else "interrupted"):
        person.fetch(store, url, Sink())
    assert not fetching_threads() and not free.is_set()
    asked = len(front.seen)
    free.set()
    assert len(front.seen) == asked and not person.events


@pytest.mark.timeout(20)
def test_a_first_answer_that_does_not_come_is_not_waited_for(bucket: Any, front: Any, person: Any) -> None:
    free, token = threading.Event(), CancelToken()
    front.instead = lambda method, path: (token.cancel(), free.wait(15), None)[-1]
    store = bucket.store(attrs.evolve(person.context, cancel=token), endpoint=front.url, read_timeout=60.0)
    with pytest.raises(CancelledError):
        person.fetch(store, bucket.url("x"))
    assert not free.is_set()
    free.set()


def test_servers_that_allow_few_connections(bucket: Any, front: Any, person: Any) -> None:
    url = bucket.put("large.bin", CONTENT)
    most = Most()

    def instead(method: str, path: str) -> Any:
        most.enter(method, path)
        if most.now > 2:
            most.now -= 1
            return 503, {}, b"<Error><Code>SlowDown</Code></Error>"
        return None

    front.instead, front.change = instead, most
    person.fetch(bucket.store(person.context, endpoint=front.url), url)
    assert person.sink.data == CONTENT and person.sink.restarts == 0


PROGRAM = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from medperf_core.plugin import BackendContext, FetchRequest
from medperf_storage.plugin import medperf_storages

scheme, endpoint, url, size = sys.argv[1:]
keys = {"s3": {"access_key_id": "medperf-test", "secret_access_key": "local-only-secret"}, "gs": {"access_token": "x"}}
plugin = next(each for each in medperf_storages() if each.name == scheme)
store = plugin.make(plugin.settings(endpoint=endpoint), BackendContext(Path("."), Path("."), credentials=keys.get))
class Sink:
    def __init__(self): self.written = 0
    def expect(self, size, version=""): pass
    def write(self, data): self.written += len(data)
def fetch(_):
    sink = Sink()
    store.fetch(FetchRequest(url, False, 1 << 40), sink)
    assert sink.written == int(size)
with ThreadPoolExecutor(8) as pool: list(pool.map(fetch, range(8)))
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_memory_of_eight_large_files(bucket: Any, tmp_path: Path) -> None:
    content = os.urandom(MIB) * 120
    url = bucket.put("large.bin", content)
    words = [bucket.scheme, bucket.server, url, str(len(content))]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150
