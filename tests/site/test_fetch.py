"""A fetch brings exactly the expected file into the cache, or nothing and an error that says why."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.builtin.file import FileStorage
from medperf_core.errors import CancelledError, InvalidEntityError, PluginError, TransferError, VerificationError
from medperf_core.plugin import (
    BackendContext,
    Event,
    FetchInfo,
    FetchRequest,
    Progress,
    Sink,
    StepFinished,
    StepStarted,
    Storage,
)
from medperf_core.site.cache import Cache
from medperf_core.site.fetch import Fetcher, Origin

CONTENT = os.urandom(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LARGE = os.urandom((6 << 20) + 77)
Script = Callable[[FetchRequest, Sink], FetchInfo]


@attrs.define
class ScriptedStorage(Storage):
    """A store that does to the sink what a test says, to provoke faults, and keeps the requests."""

    script: Script
    requests: list[FetchRequest] = attrs.field(factory=list)

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        self.requests.append(request)
        return self.script(request, sink)


def send(data: bytes = CONTENT, announced: int | None = None, size: int | None = None) -> Script:
    def script(request: FetchRequest, sink: Sink) -> FetchInfo:
        sink.expect(announced)
        for start in range(0, len(data), 30_000):
            sink.write(data[start : start + 30_000])
        return FetchInfo(size=size)

    return script


@attrs.define(slots=False)
class Site:
    """A fetcher with its cache, its events and a scripted store behind ``https:``."""

    root: Path
    script: Script = attrs.field(factory=send)
    max_bytes: int = 1 << 30
    events: list[Event] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.cache = Cache(self.root / "cache")
        self.context = BackendContext(self.root, self.root, emit=self.events.append)
        self.store = ScriptedStorage(self.script)
        self.fetcher = Fetcher(self.cache, self.storage, self.context, self.max_bytes)

    def storage(self, scheme: str) -> Storage:
        if scheme == "file":
            return FileStorage()
        if scheme == "https":
            return self.store
        raise PluginError(f"No store serves {scheme}:. Installed: file, https.")

    def holds_nothing(self) -> bool:
        return self.cache.entries() == [] and list((self.cache.root / "temp").iterdir()) == []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_first_use_returns_what_was_computed(site: Site) -> None:
    fetched = site.fetcher.fetch("https://me:secret@host/a.bin?token=secret#x", origin=Origin.REMOTE)
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.size, fetched.reused) == (SHA256, len(CONTENT), False)
    assert fetched.url_redacted == "https://host/a.bin"
    assert site.store.requests == [
        FetchRequest("https://me:secret@host/a.bin?token=secret#x", allow_local=False, max_bytes=1 << 30)
    ]


def test_known_file_needs_no_store(site: Site) -> None:
    first = site.fetcher.fetch("https://host/a.bin", origin=Origin.REMOTE, sha256=SHA256)
    again = site.fetcher.fetch("gs://bucket/a.bin", origin=Origin.REMOTE, sha256=SHA256.upper())
    assert (again.path, again.size, again.reused) == (first.path, len(CONTENT), True)
    assert len(site.store.requests) == 1


def test_damaged_cached_file_is_fetched_again(site: Site) -> None:
    path = site.fetcher.fetch("https://host/a.bin", origin=Origin.REMOTE, sha256=SHA256).path
    path.chmod(0o600)
    path.write_bytes(b"other")
    fetched = site.fetcher.fetch("https://host/a.bin", origin=Origin.REMOTE, sha256=SHA256)
    assert fetched.path.read_bytes() == CONTENT
    assert len(site.store.requests) == 2


def test_wrong_file_is_named_and_not_kept(site: Site) -> None:
    with pytest.raises(VerificationError) as caught:
        site.fetcher.fetch("https://me:secret@host/a.bin?token=secret", origin=Origin.REMOTE, sha256="0" * 64)
    for words in ("https://host/a.bin", "0" * 64, SHA256, f"{len(CONTENT)} bytes"):
        assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert site.holds_nothing()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html><html><body>Please log in", "a web page"),
        (b"<html lang=en>", "a web page"),
        (b"", "is empty"),
        (b"<?xml version='1.0'?>", "changed since it was registered"),
    ],
)
def test_wrong_file_comes_with_a_guess(content: bytes, words: str, tmp_path: Path) -> None:
    site = Site(tmp_path, send(content))
    with pytest.raises(VerificationError, match=words):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE, sha256=SHA256)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [(Origin.TYPED, True), (Origin.EMBEDDED, True), (Origin.REMOTE, False), (Origin.MANIFEST, False)],
)
def test_origin_decides_what_may_be_reached(origin: Origin, allowed: bool, site: Site, tmp_path: Path) -> None:
    site.fetcher.fetch("https://host/a", origin=origin)
    assert site.store.requests[0].allow_local is allowed
    (tmp_path / "local.bin").write_bytes(b"local")
    for url in ((tmp_path / "local.bin").as_uri(), "direct:FILE:" + str(tmp_path / "local.bin")):
        if allowed:
            assert site.fetcher.fetch(url, origin=origin).path.read_bytes() == b"local"
        else:
            with pytest.raises(TransferError, match=f"{origin} and names a file of this machine"):
                site.fetcher.fetch(url, origin=origin)


def test_typed_path_is_a_file(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my file%20#1.bin").write_bytes(b"local")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (str(tmp_path / "my file%20#1.bin"), "my file%20#1.bin", "./my file%20#1.bin", "~/my file%20#1.bin"):
        assert site.fetcher.fetch(path, origin=Origin.TYPED).path.read_bytes() == b"local"
    for origin in (Origin.EMBEDDED, Origin.REMOTE, Origin.MANIFEST):
        with pytest.raises(TransferError, match="not an address"):
            site.fetcher.fetch("my file%20#1.bin", origin=origin)


@pytest.mark.parametrize("prefix", ["direct:", "Direct:", " direct:"])
def test_prefix_of_the_field_is_taken_off(prefix: str, site: Site) -> None:
    fetched = site.fetcher.fetch(f"{prefix}HTTPS://Host/a", origin=Origin.REMOTE)
    assert site.store.requests[0].url == "https://Host/a"
    assert fetched.url_redacted == "https://Host/a"


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("", TransferError, "not an address"),
        ("ftp://host/a", PluginError, "Installed: file, https"),
        ("synapse:syn123", PluginError, "synapse"),
        ("https://host/a b", TransferError, "blank.* Write %20"),
        ("s3://bucket/a b", TransferError, "blank.* choose names without blanks"),
        ("gs://bucket/a b", TransferError, "blank.* choose names without blanks"),
        ("https://host\\@evil/a", TransferError, "backslash"),
        ("https://host/a\n", None, ""),
        ("https://host/\x1b[2J", TransferError, "control"),
    ],
)
def test_addresses_that_are_none(url: str, error: type[Exception] | None, words: str, site: Site) -> None:
    if error is None:
        site.fetcher.fetch(url, origin=Origin.REMOTE)
        return
    with pytest.raises(error, match=words):
        site.fetcher.fetch(url, origin=Origin.TYPED if url else Origin.REMOTE)


def test_hash_that_is_none_is_refused(site: Site) -> None:
    with pytest.raises(InvalidEntityError, match="not a SHA-256"):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE, sha256="../../x")


def restarting(request: FetchRequest, sink: Sink) -> FetchInfo:
    sink.expect(2 * len(CONTENT) + 5)
    sink.write(CONTENT[::-1] + CONTENT)
    sink.restart()
    assert sink.written == 0
    return send(announced=len(CONTENT))(request, sink)


def test_new_attempt_begins_from_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, restarting)
    fetched = site.fetcher.fetch("https://host/a", origin=Origin.REMOTE, sha256=SHA256)
    assert fetched.path.read_bytes() == CONTENT


def again_and_again(request: FetchRequest, sink: Sink) -> FetchInfo:
    for size in (5 << 20, 3, 2 << 20):
        sink.write(os.urandom(size))
        sink.restart()
    return send(LARGE)(request, sink)


def with_one_buffer(request: FetchRequest, sink: Sink) -> FetchInfo:
    buffer: Any = bytearray(1 << 20)
    for start in range(0, len(LARGE), len(buffer)):
        part = LARGE[start : start + len(buffer)]
        buffer[: len(part)] = part
        view: Any = memoryview(buffer)[: len(part)]
        sink.write(view)
    return FetchInfo()


@pytest.mark.parametrize("script", [send(LARGE), again_and_again, with_one_buffer])
def test_large_file_is_hashed_beside(script: Script, tmp_path: Path) -> None:
    threads = threading.active_count()
    fetched = Site(tmp_path, script).fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert fetched.path.read_bytes() == LARGE
    assert (fetched.sha256, fetched.size) == (hashlib.sha256(LARGE).hexdigest(), len(LARGE))
    assert threading.active_count() == threads


def broken_off(request: FetchRequest, sink: Sink) -> FetchInfo:
    sink.write(LARGE)
    raise RuntimeError("a fault in a plugin")


def test_broken_fetch_leaves_no_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(RuntimeError):
        Site(tmp_path, broken_off).fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert threading.active_count() == threads


def endless(request: FetchRequest, sink: Sink) -> FetchInfo:
    for _ in range(96):
        sink.write(os.urandom(1 << 20))
    return FetchInfo()


def test_fetching_needs_little_memory(tmp_path: Path) -> None:
    site = Site(tmp_path, endless)
    tracemalloc.start()
    assert site.fetcher.fetch("https://host/a", origin=Origin.REMOTE).size == 96 << 20
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (send(announced=len(CONTENT) + 1), "100000 of 100001 bytes"),
        (send(size=len(CONTENT) + 1), "100000 of 100001 bytes"),
        (send(announced=len(CONTENT) - 1), "more than the 99999 bytes"),
        (send(announced=(1 << 20) + 1), "has 1048577 bytes; at most 1048576"),
        (send(data=bytes(1 << 20) + b"x"), "is larger; at most 1048576"),
        (send(announced=-1), "more than the -1"),
    ],
)
def test_sizes_are_held(script: Script, words: str, tmp_path: Path) -> None:
    site = Site(tmp_path, script, max_bytes=1 << 20)
    with pytest.raises(TransferError, match=words):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert site.holds_nothing()


def test_no_room_is_said_before_anything_comes(tmp_path: Path) -> None:
    site = Site(tmp_path, send(announced=1 << 60), max_bytes=1 << 62)
    with pytest.raises(TransferError, match=r"has 1152921504606846976 bytes, but only \d+ are free"):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert site.holds_nothing()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_is_said_and_keeps_nothing(small_disk: Path) -> None:
    site = Site(small_disk, send(os.urandom(4 << 20)))
    with pytest.raises(TransferError, match=r"https://host/a could not be written to the cache: No space left"):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert site.holds_nothing()
    assert sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file()) == 0


def test_cancelled_fetch_keeps_nothing(tmp_path: Path) -> None:
    def cancelling(request: FetchRequest, sink: Sink) -> FetchInfo:
        sink.write(CONTENT[:1000])
        site.context.cancel.cancel()
        return send()(request, sink)

    site = Site(tmp_path, cancelling)
    with pytest.raises(CancelledError):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert site.holds_nothing()
    with pytest.raises(CancelledError):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert len(site.store.requests) == 1


def test_store_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def broken(request: FetchRequest, sink: Sink) -> FetchInfo:
        sink.write(CONTENT)
        raise RuntimeError("a fault in a plugin")

    site = Site(tmp_path, broken)
    with pytest.raises(RuntimeError):
        site.fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert site.holds_nothing()


def test_events_tell_the_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medperf_core.site.sink.PROGRESS_SECONDS", 0.0)
    site = Site(tmp_path, send(announced=len(CONTENT)))
    site.fetcher.fetch("https://u:p@host/a", origin=Origin.REMOTE, sha256=SHA256)
    what = "Fetching https://host/a"
    assert site.events == [
        StepStarted(what),
        *(Progress(what, done, len(CONTENT)) for done in (30_000, 60_000, 90_000, 100_000, 100_000)),
        StepFinished(what),
    ]
    site.events.clear()
    site.fetcher.fetch("https://u:p@host/a", origin=Origin.REMOTE, sha256=SHA256)
    assert site.events == []


KILLED = """
import os, sys
from pathlib import Path
from medperf_core.plugin import BackendContext, Storage
from medperf_core.site.cache import Cache
from medperf_core.site.fetch import Fetcher, Origin

class Dies(Storage):
    def fetch(self, request, sink):
        sink.write(b"half of it")
        os.kill(os.getpid(), 9)

root = Path(sys.argv[1])
Fetcher(Cache(root / "cache"), lambda scheme: Dies(), BackendContext(root, root)).fetch("x1://a", origin=Origin.REMOTE)
"""


def test_killed_fetch_leaves_no_entry_and_is_swept(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert done.returncode == -9
    assert site.cache.entries() == []
    (leftover,) = (site.cache.root / "temp").iterdir()
    monkeypatch.setattr("medperf_core.site.cache.LEFTOVER_SECONDS", -60)  # as if it were old
    site.fetcher.fetch("https://host/a", origin=Origin.REMOTE)
    assert not leftover.exists()
