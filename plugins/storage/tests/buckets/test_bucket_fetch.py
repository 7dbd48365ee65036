"""Fetching from buckets of both clouds: parts of large files, faults on the way, files that change."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.errors import CancelledError, OfflineError, TransferError
from medperf_core.plugin import CancelToken
from medperf_core.plugin.testing.relay import Relay

MIB = 1 << 20
BIG = os.urandom(75 * MIB + 17)
"""More than one connection fetches it."""
OLD_MIDDLE = 30 * MIB


def test_a_large_file_comes_in_parts_and_in_order(bucket: Any, front: Any, person: Any) -> None:
    url = bucket.put("a/big.bin", BIG)
    info = person.fetch(bucket.store(person.context, endpoint=front.url), url)
    assert person.sink.data == BIG
    assert person.sink.expected == [(len(BIG), info.version)]
    ranges = [headers["range"] for method, _, headers in front.seen if method == "GET"]
    assert len(ranges) == len(set(ranges)) == 10
    assert info.joined


def test_a_small_file_takes_one_request(bucket: Any, front: Any, person: Any) -> None:
    url = bucket.put("small.bin", b"x" * 1000)
    info = person.fetch(bucket.store(person.context, endpoint=front.url), url)
    assert (len(front.seen), info.joined, info.size) == (1, False, 1000)


def test_ten_cuts_cost_few_bytes(bucket: Any, relay: Relay, person: Any) -> None:
    url = bucket.put("big.bin", BIG)
    relay.cut(5 * MIB, times=10)
    before = relay.sent
    person.fetch(bucket.store(person.context), url)
    assert relay.cuts == 10
    assert person.sink.data == BIG and person.sink.restarts == 0
    assert relay.sent - before <= 1.05 * len(BIG)


def test_a_file_replaced_half_way_is_an_error(bucket: Any, relay: Relay, person: Any) -> None:
    url = bucket.put("big.bin", BIG)
    relay.on_cut = lambda: bucket.put("big.bin", BIG[::-1])
    relay.cut(12 * MIB, times=1)
    with pytest.raises(TransferError, match="replaced or removed while"):
        person.fetch(bucket.store(person.context), url)
    assert BIG.startswith(bytes(person.sink.data))


def test_a_file_removed_half_way_is_an_error(s3_bucket: Any, relay: Relay, person: Any) -> None:
    url = s3_bucket.put("big.bin", BIG)
    relay.on_cut = lambda: s3_bucket.ask("DELETE", "big.bin")
    relay.cut(12 * MIB, times=1)
    with pytest.raises(TransferError, match="replaced or removed while"):
        person.fetch(s3_bucket.store(person.context), url)


def test_a_later_fetch_goes_on_at_its_byte(bucket: Any, front: Any, person: Any, make_held: Any) -> None:
    store = bucket.store(person.context, endpoint=front.url)
    url = bucket.put("big.bin", BIG)
    version = store.look(url).version
    front.seen.clear()
    sink = make_held(BIG[:OLD_MIDDLE])
    person.fetch(store, url, sink, start=OLD_MIDDLE, version=version)
    assert sink.data == BIG and sink.restarts == 0
    starts = [int(headers["range"].partition("=")[2].partition("-")[0]) for _, _, headers in front.seen]
    assert min(starts) == OLD_MIDDLE

    whole = make_held(BIG)
    person.fetch(store, url, whole, start=len(BIG), version=version)
    assert whole.data == BIG and whole.restarts == 0

    bucket.put("big.bin", b"short")
    for start in (OLD_MIDDLE, len(BIG), 5):
        sink = make_held(BIG[:start])
        person.fetch(store, url, sink, start=start, version=version)
        assert sink.data == b"short" and sink.restarts == 1


def test_the_whole_in_one_answer(bucket: Any, front: Any, relay: Relay, person: Any) -> None:
    url = bucket.put("big.bin", BIG)
    info = person.fetch(bucket.store(person.context, endpoint=front.url), url, whole=True)
    assert person.sink.data == BIG and not info.joined
    assert len(front.seen) == 1
    relay.cut(40 * MIB, times=1)
    info = person.fetch(bucket.store(person.context), url, whole=True)
    assert person.sink.data == BIG and person.sink.restarts == 1 and not info.joined


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_twice_is_asked_again(bucket: Any, front: Any, person: Any, status: int) -> None:
    url = bucket.put("file.bin", b"content")
    left = [2]

    def fail(method: str, path: str) -> Any:
        left[0] -= 1
        return (status, {}, b"<Error><Code>SlowDown</Code></Error>") if left[0] >= 0 else None

    front.instead = fail
    person.fetch(bucket.store(person.context, endpoint=front.url), url)
    assert person.sink.data == b"content" and len(front.seen) == 3
    assert "trying again" in str(person.events[0])
    left[0] = 1000
    with pytest.raises(TransferError, match=f"answered {status} SlowDown .attempt 3 of 3"):
        person.fetch(bucket.store(person.context, endpoint=front.url), url)


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Range": "bytes 0-9/1"},
        {"Content-Range": "bytes 5-9/10"},
        {"Content-Range": "bytes */*"},
        {"Content-Range": f"bytes 0-9/{'9' * 40}"},
        {"Content-Encoding": "gzip"},
        {"X-Goog-Stored-Content-Encoding": "gzip"},
    ],
)
def test_a_server_that_lies_is_not_believed(bucket: Any, front: Any, person: Any, lie: dict[str, str]) -> None:
    url = bucket.put("file.bin", b"0123456789")

    def change(method: str, path: str, answer: Any) -> Any:
        kept = {name: value for name, value in answer[1].items() if name not in lie}
        return answer[0], {**kept, **lie}, answer[2]

    front.change = change
    with pytest.raises(TransferError):
        person.fetch(bucket.store(person.context, endpoint=front.url), url)
    assert not person.sink.data


def test_a_file_that_is_larger_than_it_said(bucket: Any, front: Any, person: Any) -> None:
    url = bucket.put("file.bin", b"0123456789")
    front.change = lambda method, path, answer: (answer[0], answer[1], answer[2] + b"more")
    with pytest.raises(TransferError, match=f"{url} sent more than it was asked for"):
        person.fetch(bucket.store(person.context, endpoint=front.url), url)


def test_other_content_under_the_same_address_is_noticed(bucket: Any, front: Any, person: Any) -> None:
    """Even where the server does not heed the condition of a request."""
    url = bucket.put("big.bin", BIG)
    name = "ETag" if bucket.scheme == "s3" else "X-Goog-Generation"
    count = [0]

    def change(method: str, path: str, answer: Any) -> Any:
        count[0] += 1
        kept = {each: value for each, value in answer[1].items() if each.lower() != name.lower()}
        other = '"another"' if bucket.scheme == "s3" else "77"
        return (answer[0], {**kept, name: other}, answer[2]) if count[0] > 3 else answer

    front.change = change
    with pytest.raises(TransferError, match="replaced or removed"):
        person.fetch(bucket.store(person.context, endpoint=front.url), url)


def test_offline_asks_nobody(
    bucket: Any, front: Any, person: Any, monkeypatch: pytest.MonkeyPatch, google_metadata: Any
) -> None:
    """Neither the bucket nor a metadata service."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", front.url)
    google_metadata(front.url)
    context = attrs.evolve(person.context, credentials=lambda name: None)
    offline = attrs.evolve(context, offline=True)
    for store in (bucket.store(offline, endpoint=front.url), bucket.store(offline, endpoint=None)):
        with pytest.raises(OfflineError):
            person.fetch(store, bucket.url("x"))
        with pytest.raises(OfflineError):
            store.look(bucket.url("x"))
        with pytest.raises(OfflineError):
            person.put(store, bucket.url("x"), b"x")
        store.public_url(bucket.url("x"))
    assert not front.seen
    content = b"1"
    bucket.put("x", content, **({"x-amz-acl": "public-read"} if bucket.scheme == "s3" else {}))
    front.instead = lambda method, path: (404, {}, b"") if bucket.name not in path else None
    person.fetch(bucket.store(context, endpoint=front.url), bucket.url("x"))
    assert person.sink.data == content
    assert [path for _, path, _ in front.seen if bucket.name not in path], "no metadata service was asked online"


def test_an_endpoint_on_this_machine_has_to_be_configured(bucket: Any, person: Any) -> None:
    from medperf_storage.object_http import Call, Connections

    with pytest.raises(TransferError, match="loopback"):
        Connections(person.context, bucket.settings(), local=False).reply(Call("GET", bucket.server))


@pytest.mark.parametrize("waived", [True, False])
def test_an_endpoint_of_the_settings_may_be_this_machine_by_any_name(
    bucket: Any, front: Any, person: Any, names: Any, waived: bool
) -> None:
    """Such as the one in /etc/hosts; what is sent there in the open is another question."""
    names["storage.hospital.example"] = "127.0.0.1"
    url = bucket.put("x", b"content")
    context = attrs.evolve(person.context, waivers=frozenset({"plain-http"} if waived else ()))
    if bucket.scheme == "gs":  # a login of Google is never sent in the open
        context = attrs.evolve(context, credentials=lambda name: None)
    endpoint = front.url.replace("127.0.0.1", "storage.hospital.example")
    store = bucket.store(context, endpoint=endpoint)
    if waived:
        person.fetch(store, url)
        assert person.sink.data == b"content"
    else:
        with pytest.raises(TransferError, match=f"server of {url} is plain http"):
            person.fetch(store, url)
        assert not front.seen


def test_answers_that_cannot_be_used_are_closed(bucket: Any, front: Any, person: Any) -> None:
    """So that their bytes do not come all the same."""
    url = bucket.put("file.bin", b"0123456789")
    store = bucket.store(person.context, endpoint=front.url)
    answers, real = [], store._connections.answer
    store._connections.answer = lambda *words: answers.append(real(*words)) or answers[-1]
    front.change = lambda method, path, answer: (206, {**answer[1], "Content-Range": "bytes 5-9/10"}, answer[2])
    with pytest.raises(TransferError, match="another part"):
        person.fetch(store, url)
    assert len(answers) == 3 and all(answer.closed for answer in answers)


def test_cancelling_ends_a_large_fetch(bucket: Any, person: Any, make_held: Any) -> None:
    url = bucket.put("big.bin", BIG)
    token = CancelToken()
    sink = make_held(b"")
    taken = sink.write

    class Sink(type(sink)):  # type: ignore[misc]
        def write(self, data: bytes) -> None:
            taken(data)
            if len(sink.data) > 20 * MIB:
                token.cancel()
                token.raise_if_cancelled()

    with pytest.raises(CancelledError):
        person.fetch(bucket.store(attrs.evolve(person.context, cancel=token)), url, Sink())
    assert len(sink.data) < 21 * MIB


PROGRAM = """
import hashlib, re, sys
from pathlib import Path
from medperf_core.plugin import BackendContext, FetchRequest
from medperf_core.plugin.storage import PutRequest
from medperf_storage.object_settings import GcsSettings, S3Settings
from medperf_storage.plugin import medperf_storages

scheme, endpoint, url, action, path, size, sha256 = sys.argv[1:]
keys = {"s3": {"access_key_id": "medperf-test", "secret_access_key": "local-only-secret"}, "gs": {"access_token": "x"}}
plugin = next(each for each in medperf_storages() if each.name == scheme)
store = plugin.make(plugin.settings(endpoint=endpoint), BackendContext(Path("."), Path("."), credentials=keys.get))
digest = hashlib.sha256()
class Sink:
    written = 0
    def expect(self, size, version=""): pass
    def write(self, data):
        self.written += len(data)
        digest.update(data)
    def restart(self): raise SystemExit("restarted")
if action == "fetch":
    store.fetch(FetchRequest(url, False, 1 << 40), Sink())
    assert digest.hexdigest() == sha256
else:
    store.put(PutRequest(url, Path(path), int(size), sha256), lambda count: None)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def test_memory_stays_flat(bucket: Any, person: Any, tmp_path: Path) -> None:
    """300 MiB up and down by a program that may use 150 MiB."""
    size, path = 300 * MIB, tmp_path / "large.bin"
    piece = os.urandom(MIB)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for _ in range(300):
            stream.write(piece)
            digest.update(piece)
    for action in ("put", "fetch"):
        words = [bucket.scheme, bucket.server, bucket.url("l"), action, str(path), str(size), digest.hexdigest()]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 150, f"{action} took {done.stdout.strip()} MiB"
