"""An upload whose program was killed goes on: what the server has is not sent again, unless it is of another file."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests

from medperf_core.errors import TransferError
from medperf_core.plugin.storage import PutRequest
from medperf_core.plugin.testing.relay import Relay

MIB = 1 << 20
SIZE = 43 * MIB + 5
LARGE = os.urandom(SIZE)
KILLED_AT = 18 * MIB
"""After two parts of S3, or a while after two marks of Google."""

PROGRAM = """
import os, signal, sys
from pathlib import Path
from medperf_core.plugin import BackendContext
from medperf_core.plugin.storage import PutRequest
from medperf_storage.gcs import GcsStorage
from medperf_storage.object_settings import GcsSettings, S3Settings
from medperf_storage.s3 import S3Storage

scheme, endpoint, url, path, cache, size, sha256, kill_at = sys.argv[1:]
keys = {"s3": {"access_key_id": "medperf-test", "secret_access_key": "local-only-secret"}}
context = BackendContext(Path(cache), Path(cache), credentials=keys.get)
make, settings = (S3Storage, S3Settings) if scheme == "s3" else (GcsStorage, GcsSettings)
sent = 0
def on_bytes(count):
    global sent
    sent += count
    if sent > int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
store = make(settings(endpoint=endpoint, parallel=1), context)
store.put(PutRequest(url, Path(path), int(size), sha256), on_bytes)
"""


class Sessions:
    """Makes the server of these tests do with broken requests what Google does: keep whole 256 KiB of them, and tell
    how much that is. By itself it takes that question for the end of the upload."""

    def __init__(self, front: Any) -> None:
        self._front = front
        self.have: dict[str, int] = {}
        self.came = 0

    def answer(self, method: str, path: str) -> Any:
        span = self._front.seen[-1][2].get("content-range", "")
        self.came += len(self._front.body) if span else 0
        if span.startswith("bytes */"):
            have = self.have.get(path, 0)
            return 308, {"Range": f"bytes=0-{have - 1}"} if have else {}, b""
        if not span:
            return None
        first, last = (int(each) for each in span.removeprefix("bytes ").partition("/")[0].split("-"))
        body = self._front.body
        if len(body) == last - first + 1:
            return None
        kept = len(body) // (256 << 10) * (256 << 10)
        headers = {"Content-Range": f"bytes {first}-{first + kept - 1}/{span.rpartition('/')[2]}"}
        if kept:
            answer = requests.put(self._front.behind.geturl() + path, data=body[:kept], headers=headers)
            assert answer.status_code == 308
        self.have[path] = first + kept
        return 308, {}, b""

    def change(self, method: str, path: str, answer: Any) -> Any:
        behind = self._front.behind.geturl()
        return answer[0], {name: text.replace(behind, self._front.url) for name, text in answer[1].items()}, answer[2]


@attrs.define
class Killed:
    """An upload that was killed half-way, and what a second command does."""

    bucket: Any
    person: Any
    endpoint: str
    path: Path
    url: str
    came: Any
    sessions: Sessions

    def kill(self, content: bytes = LARGE, at: int = KILLED_AT) -> None:
        self.path.write_bytes(content)
        digest, cache = hashlib.sha256(LARGE).hexdigest(), str(self.person.context.cache_dir)
        had = dict(self.sessions.have)
        words = [self.bucket.scheme, self.endpoint, self.url, str(self.path), cache, str(SIZE), digest, str(at)]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not self.bucket.names()
        patience = time.monotonic() + 30
        while self.bucket.scheme == "gs" and self.sessions.have == had:  # the server is still at what came
            assert time.monotonic() < patience
            time.sleep(0.01)

    def again(self, content: bytes = LARGE) -> int:
        """Upload; the bytes that came to the server."""
        before = self.came()
        store = self.bucket.store(self.person.context, endpoint=self.endpoint)
        assert self.person.put(store, self.url, content).size == len(content) == sum(self.person.sent)
        assert self.bucket.content("large.bin") == content
        return int(self.came() - before)

    @property
    def notes(self) -> list[Path]:
        return list(self.person.folder.glob("cache/*/uploads/*"))


@pytest.fixture
def killed(bucket: Any, front: Any, relay: Relay, person: Any, tmp_path: Path) -> Iterator[Killed]:
    sessions = Sessions(front)
    front.instead, front.change = sessions.answer, sessions.change
    s3 = bucket.scheme == "s3"
    yield Killed(
        bucket,
        person,
        bucket.door if s3 else front.url,
        tmp_path / "large",
        bucket.url("large.bin"),
        (lambda: relay.received) if s3 else (lambda: sessions.came),
        sessions,
    )


def test_a_killed_upload_goes_on(killed: Killed) -> None:
    killed.kill()
    assert len(killed.notes) == 1
    came = killed.again()
    assert 0 < came < SIZE - 15 * MIB
    assert not killed.notes
    assert killed.bucket.scheme == "gs" or not killed.bucket.uploads()


def test_one_that_is_killed_twice_goes_on(killed: Killed) -> None:
    killed.kill(at=9 * MIB)
    killed.kill(at=KILLED_AT)
    assert killed.again() < SIZE - 15 * MIB


def test_a_note_is_only_for_its_owner(killed: Killed) -> None:
    killed.kill()
    (note,) = killed.notes
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700


def test_another_file_takes_nothing_of_it(killed: Killed) -> None:
    killed.kill()
    assert killed.again(os.urandom(SIZE)) >= SIZE
    assert not killed.notes
    assert killed.bucket.scheme == "gs" or not killed.bucket.uploads()


def test_bytes_that_the_file_does_not_have_are_not_kept(killed: Killed) -> None:
    """The file was another one while the killed program read it."""
    killed.kill(bytes(8 * MIB) + LARGE[8 * MIB :])
    good = 0
    if killed.bucket.scheme == "s3":
        ((name, key),) = killed.bucket.uploads_and_keys()
        good = killed.bucket.ask("GET", f"{key}?uploadId={name}").text.count("<PartNumber>") - 1  # without the first
        assert good > 0
    assert killed.again() >= SIZE - good * 8 * MIB


def test_an_upload_that_the_server_forgot_begins_anew(killed: Killed, front: Any, relay: Relay) -> None:
    killed.kill()
    if killed.bucket.scheme == "s3":
        ((name, key),) = killed.bucket.uploads_and_keys()
        killed.bucket.ask("DELETE", f"{key}?uploadId={name}")
    else:
        kept, forgotten = front.instead, {each[1] for each in front.seen if "upload_id" in each[1]}
        front.instead = lambda method, path: (404, {}, b"") if path in forgotten else kept(method, path)
    assert killed.again() >= SIZE
    assert not killed.notes


def test_a_note_of_nonsense_is_no_hindrance(killed: Killed) -> None:
    killed.kill()
    (note,) = killed.notes
    begun = note.read_bytes().splitlines()[0]
    note.write_bytes(
        b'\xff\n["begun"]\n["mark", 1, "x"]\n[' * 3 + b"\n" + begun + b'\n["mark", 1, 2]\n["mark", 8388608'
    )
    killed.again()
    assert not killed.notes


def test_a_session_is_in_no_message(gs_bucket: Any, front: Any, person: Any) -> None:
    """Whoever knows it can upload."""
    sessions = Sessions(front)
    front.change = sessions.change
    front.instead = lambda method, path: (503, {}, b"") if method == "PUT" else None
    store = gs_bucket.store(person.context, endpoint=front.url)
    with pytest.raises(TransferError, match="goes on with what the server has") as caught:
        person.put(store, gs_bucket.url("large.bin"), LARGE)
    told = f"{caught.value} {caught.value!r} {caught.value.__context__!r} {person.events}"
    assert "upload_id" not in told and "/upload/" not in told
    (note,) = person.folder.glob("cache/*/uploads/*")
    assert "upload_id" in note.read_text()
    front.instead = lambda method, path: None
    front.instead = sessions.answer
    person.put(store, gs_bucket.url("large.bin"), LARGE)
    assert gs_bucket.content("large.bin") == LARGE


def test_a_session_elsewhere_in_a_note_is_not_asked(gs_bucket: Any, front: Any, person: Any) -> None:
    sessions = Sessions(front)
    front.instead, front.change = sessions.answer, sessions.change
    store = gs_bucket.store(person.context, endpoint=front.url)
    folder = person.context.cache_dir / "gs" / "uploads"
    folder.mkdir(parents=True)
    address = store.remote(store.address(gs_bucket.url("large.bin"))).address
    digest = hashlib.sha256(LARGE).hexdigest()
    note = folder / f"{hashlib.sha256(address.encode()).hexdigest()}.note"
    note.write_text(f'["begun", "http://127.0.0.1:9/session", {SIZE}, "{digest}"]\n')
    person.put(store, gs_bucket.url("large.bin"), LARGE)
    assert gs_bucket.content("large.bin") == LARGE and not note.exists()


def test_an_upload_that_was_complete_when_it_was_killed(bucket: Any, front: Any, person: Any) -> None:
    """The server has the file at its address, and the program did not hear of it."""
    sessions = Sessions(front)
    front.instead, front.change = sessions.answer, sessions.change
    store, url = bucket.store(person.context, endpoint=front.url), bucket.url("large.bin")
    notes: list[tuple[Path, bytes]] = []

    def kept(method: str, path: str, answer: Any) -> Any:
        notes[:] = [(each, each.read_bytes()) for each in person.folder.glob("cache/*/uploads/*")] or notes
        return sessions.change(method, path, answer)

    front.change = kept
    stored = person.put(store, url, LARGE)
    for note, content in notes:
        note.write_bytes(content)
    assert person.put(store, url, LARGE) == store.look(url) and sum(person.sent) == SIZE
    assert store.look(url).size == stored.size
    assert not any(note.exists() for note, _ in notes)
    with pytest.raises(TransferError, match="already; it was not replaced"):
        person.put(store, url, LARGE)


def test_two_uploads_of_one_address_leave_each_other_alone(s3_bucket: Any, person: Any) -> None:
    """The second one begins while the first is half-way, and may not remove what it takes for left over."""
    path, url = person.folder / "large", s3_bucket.url("large.bin")
    path.write_bytes(LARGE)
    request = PutRequest(url, path, SIZE, hashlib.sha256(LARGE).hexdigest())
    seen: list[int] = []

    def on_bytes(count: int) -> None:
        if not seen:
            seen.append(count)
            with pytest.raises(TransferError, match="is not what was to be uploaded"):
                s3_bucket.store(person.context).put(attrs.evolve(request, sha256="0" * 64), lambda _: None)

    assert s3_bucket.store(person.context).put(request, on_bytes).size == SIZE
    assert s3_bucket.content("large.bin") == LARGE and not s3_bucket.uploads()
