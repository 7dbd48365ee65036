"""What came of an interrupted fetch is kept, checked with the rest, and used by the next fetch of that file only."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from medperf_core.errors import CancelledError, MedperfError, TransferError, VerificationError
from medperf_core.plugin import BackendContext, Event, FetchInfo, FetchRequest, Notice, Progress, Sink, Storage
from medperf_core.plugin.storage import StoragePromise
from medperf_core.site import partials
from medperf_core.site.cache import Cache, Kind
from medperf_core.site.fetch import Fetched, Fetcher, Origin

CONTENT = os.urandom(4_000_000)
OTHER = os.urandom(4_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = 2_000_000
URL = "x1://host/a.bin?token=hunter2"


@attrs.define
class Server(Storage):
    """A store that goes on at any byte, and breaks off as a test says.

    Attributes:
        version: of the content, as it says.
        until: where it breaks off; None for never.
        failure: how.
    """

    promises = frozenset({StoragePromise.RESUME})
    content: bytes = CONTENT
    version: str = "1"
    until: int | None = None
    failure: Callable[[], BaseException] = lambda: TransferError("The connection was cut.")
    requests: list[FetchRequest] = attrs.field(factory=list)
    sent: int = 0

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        self.requests.append(request)
        assert request.start == sink.written
        if sink.written and request.version != self.version:
            sink.restart()
        sink.expect(len(self.content), self.version)
        end = len(self.content) if self.until is None else self.until
        for start in range(sink.written, end, 300_000):
            data = self.content[start : min(start + 300_000, end)]
            self.sent += len(data)
            sink.write(data)
        if self.until is not None:
            raise self.failure()
        return FetchInfo(len(self.content), self.version)


@attrs.define(slots=False)
class Site:
    root: Path
    store: Server = attrs.field(factory=Server)
    events: list[Event] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.cache = Cache(self.root / "cache")
        self.context = BackendContext(self.root, self.root, emit=self.events.append)
        self.fetcher = Fetcher(self.cache, lambda scheme: self.store, self.context)

    def fetch(self, url: str = URL, sha256: str | None = SHA256) -> Fetched:
        return self.fetcher.fetch(url, origin=Origin.REMOTE, sha256=sha256)

    def interrupt(self, until: int = HALF, url: str = URL, sha256: str | None = SHA256) -> None:
        """A fetch that is broken off."""
        self.store.until = until
        with pytest.raises(TransferError, match="was cut"):
            self.fetch(url, sha256)
        self.store.until, self.store.sent = None, 0
        self.events.clear()

    @property
    def kept(self) -> list[int]:
        return [entry.size for entry in self.cache.entries() if entry.kind is Kind.PARTIAL]

    def left(self) -> list[str]:
        """Files that are on their way, without locks."""
        folders = (self.cache.root / "temp", self.cache.root / "partial")
        return [path.name for folder in folders for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_next_fetch_goes_on(site: Site) -> None:
    site.interrupt()
    assert site.kept == [HALF]
    fetched = site.fetch()
    assert fetched.path.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.size) == (SHA256, len(CONTENT))
    assert site.store.requests[-1] == FetchRequest(URL, False, 1 << 40, start=HALF, version="1")
    assert site.store.sent == len(CONTENT) - HALF
    assert [event.message for event in site.events if isinstance(event, Notice)] == [
        f"x1://host/a.bin: {HALF} bytes are here from an earlier fetch."
    ]
    assert all(event.done >= HALF for event in site.events if isinstance(event, Progress) and event.what[0] == "f")
    assert site.left() == []


def test_interrupted_again_and_again(site: Site) -> None:
    for until in (1_500_000, 1_500_000, 2_000_000, 3_999_999, len(CONTENT)):
        site.interrupt(until)
        assert site.kept == [until]
    assert site.fetch().path.read_bytes() == CONTENT
    assert site.store.sent == 1, "the store was not asked whether the file is still the same"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, lambda: CancelledError("No."), lambda: RuntimeError("a fault")])
def test_whatever_interrupted_it(failure: Callable[[], BaseException], site: Site) -> None:
    site.store.until, site.store.failure = HALF, failure
    with pytest.raises(type(failure())):
        site.fetch()
    assert site.kept == [HALF]
    assert f"{HALF} bytes are kept for a week" in repr(site.events)


KILLED = """
import os, sys
from pathlib import Path
from medperf_core.plugin import BackendContext, Storage
from medperf_core.plugin.storage import StoragePromise
from medperf_core.site.cache import Cache
from medperf_core.site.fetch import Fetcher, Origin

class Dies(Storage):
    promises = frozenset({StoragePromise.RESUME})
    def fetch(self, request, sink):
        sink.expect(4_000_000, "1")
        sink.write(sys.stdin.buffer.read())
        if sys.argv[3] == "die":
            os.kill(os.getpid(), 9)
        print("waiting", flush=True)
        import time
        time.sleep(60)

root = Path(sys.argv[1])
fetcher = Fetcher(Cache(root / "cache"), lambda scheme: Dies(), BackendContext(root, root))
fetcher.fetch("x1://host/a.bin", origin=Origin.REMOTE, sha256=sys.argv[2])
"""


def test_killed_fetch_is_gone_on_with(site: Site) -> None:
    command = [sys.executable, "-c", KILLED, site.root, SHA256, "die"]
    assert subprocess.run(command, input=CONTENT[:HALF], check=False).returncode == -9
    assert site.kept == [HALF]
    assert site.fetch().path.read_bytes() == CONTENT
    assert site.store.sent == len(CONTENT) - HALF
    assert site.left() == []


def test_two_processes_never_work_on_the_same_part(site: Site) -> None:
    command = [sys.executable, "-c", KILLED, site.root, SHA256, "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin and other.stdout
        other.stdin.write(CONTENT[:HALF])
        other.stdin.close()
        assert other.stdout.readline() == b"waiting\n"
        assert site.cache.remove(SHA256) == 0
        site.cache.remove_leftovers()
        assert site.fetch().path.read_bytes() == CONTENT
        assert site.store.sent == len(CONTENT)
        assert site.kept == [HALF]
        other.kill()
    assert site.cache.remove(SHA256) == HALF + len(CONTENT)
    assert site.left() == []


@pytest.mark.parametrize(
    ("change", "sha256"),
    [
        ({"version": ""}, SHA256),
        ({"until": partials.KEPT_FILES}, SHA256),
        ({}, None),
        ({"content": CONTENT + b"x" * (1 << 20), "failure": lambda: OSError("x")}, None),
    ],
    ids=["no version", "few bytes", "no hash", "no hash, fault"],
)
def test_not_worth_or_not_safe_to_keep(change: dict[str, object], sha256: str | None, site: Site) -> None:
    site.store.until = HALF
    for name, value in change.items():
        setattr(site.store, name, value)
    with pytest.raises((MedperfError, OSError)):
        site.fetch(sha256=sha256)
    assert site.left() == []


def test_only_where_the_store_goes_on(tmp_path: Path) -> None:
    class Simple(Server):
        promises = frozenset()

    site = Site(tmp_path, Simple())
    site.interrupt()
    assert site.left() == []


@pytest.mark.parametrize(
    ("url", "sha256", "goes_on"),
    [
        ("x1://other:secret@host/a.bin?token=other", SHA256, True),
        ("x1://host/b.bin", SHA256, False),
        (URL, "0" * 64, False),
        (URL, None, False),
    ],
    ids=["other signature", "other file", "other hash", "no hash"],
)
def test_for_the_same_file_only(url: str, sha256: str | None, goes_on: bool, site: Site) -> None:
    site.interrupt()
    try:
        site.fetch(url, sha256)
    except VerificationError:
        assert sha256 == "0" * 64
    assert site.store.requests[-1].start == (HALF if goes_on else 0)


def test_another_version_is_begun_anew(site: Site) -> None:
    site.store.content, site.store.version = OTHER, "0"
    site.interrupt()
    site.store.content, site.store.version = CONTENT, "1"
    assert site.fetch().path.read_bytes() == CONTENT
    assert (site.store.sent, len(site.store.requests)) == (len(CONTENT), 2)


def test_what_was_kept_is_checked_with_the_rest(site: Site) -> None:
    """A version that lies, or a disk: one more fetch, whole, and the file is there."""
    site.interrupt()
    (part,) = (site.cache.root / "partial").glob("*.part")
    part.write_bytes(OTHER[:HALF])
    assert site.fetch().path.read_bytes() == CONTENT
    assert [(request.start, request.whole) for request in site.store.requests[1:]] == [(HALF, False), (0, True)]
    assert "once more in one piece" in repr(site.events)
    assert site.left() == []


def test_wrong_file_leaves_nothing_and_is_fetched_once_more_only_after_going_on(site: Site) -> None:
    site.store.content = OTHER
    with pytest.raises(VerificationError):
        site.fetch()
    assert (len(site.store.requests), site.left()) == (1, [])
    site.interrupt()
    site.store.requests.clear()
    with pytest.raises(VerificationError, match=hashlib.sha256(OTHER).hexdigest()):
        site.fetch()
    assert (len(site.store.requests), site.left(), site.cache.entries()) == (2, [], [])


def test_parts_that_a_store_put_together_are_fetched_once_more(tmp_path: Path) -> None:
    class Mixed(Server):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            self.content = CONTENT if request.whole else OTHER
            return attrs.evolve(super().fetch(request, sink), joined=not request.whole)

    site = Site(tmp_path, Mixed())
    assert site.fetch().path.read_bytes() == CONTENT
    assert len(site.store.requests) == 2


def test_store_that_mixes_two_versions_is_stopped(tmp_path: Path) -> None:
    class Mixes(Server):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            return super().fetch(attrs.evolve(request, version=self.version), sink)

    site = Site(tmp_path, Mixes())
    site.interrupt()
    site.store.version = "2"
    with pytest.raises(TransferError, match="another file by now"):
        site.fetch()
    assert site.left() == []
    assert site.fetch().path.read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [HALF // 2, 10])
def test_more_bytes_than_announced_are_not_kept(announced: int, tmp_path: Path) -> None:
    class Talkative(Server):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            sink.expect(announced, "1")
            sink.write(CONTENT[: 1 << 20])
            sink.write(CONTENT)
            return FetchInfo()

    site = Site(tmp_path, Talkative())
    with pytest.raises(TransferError):
        site.fetch()
    assert site.left() == []


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"null",
        b"{}",
        b'{"sha256": "x", "version": "1", "size": 4000000}',
        json.dumps({"sha256": SHA256, "version": 1, "size": 4_000_000}).encode(),
        json.dumps({"sha256": SHA256, "version": "", "size": 4_000_000}).encode(),
        json.dumps({"sha256": SHA256, "version": "1\r\nX: y", "size": 4_000_000}).encode(),
        json.dumps({"sha256": SHA256, "version": "1", "size": True}).encode(),
        json.dumps({"sha256": SHA256, "version": "1", "size": -1}).encode(),
        json.dumps({"sha256": "0" * 64, "version": "1", "size": 4_000_000}).encode(),
    ],
)
def test_records_that_say_nonsense_are_not_used(record: bytes, site: Site) -> None:
    site.interrupt()
    (path,) = (site.cache.root / "partial").glob("*.json")
    path.write_bytes(record)
    assert site.fetch().path.read_bytes() == CONTENT
    assert site.store.sent == len(CONTENT)


def test_part_that_is_longer_than_the_file_is_cut(site: Site) -> None:
    site.interrupt()
    (path,) = (site.cache.root / "partial").glob("*.part")
    path.write_bytes(CONTENT + OTHER)
    assert site.fetch().path.read_bytes() == CONTENT
    assert site.store.sent == 1


def test_link_in_place_of_a_part_is_not_followed(site: Site, tmp_path: Path) -> None:
    site.interrupt()
    (path,) = (site.cache.root / "partial").glob("*.part")
    mine = tmp_path / "mine"
    mine.write_bytes(OTHER)
    path.unlink()
    path.symlink_to(mine)
    assert site.fetch().path.read_bytes() == CONTENT
    assert mine.read_bytes() == OTHER


def test_records_hold_no_address(site: Site) -> None:
    site.interrupt()
    (path,) = (site.cache.root / "partial").glob("*.json")
    assert json.loads(path.read_bytes()) == {"sha256": SHA256, "version": "1", "size": len(CONTENT)}
    assert "host" not in str(path) and "hunter2" not in str(path)
    for each in (*path.parent.glob("*.part"), path):
        assert each.stat().st_mode & 0o077 == 0


def test_parts_are_kept_for_a_week_and_only_the_newest(site: Site) -> None:
    for number in range(partials.KEPT_FILES + 2):
        site.interrupt(1_200_000 + number, f"x1://host/{number}")
        for part in (site.cache.root / "partial").glob("*.part"):
            if part.stat().st_size == 1_200_000 + number:
                os.utime(part, (time.time() - 1000 + number,) * 2)
    site.cache.remove_leftovers()
    assert site.kept == [1_200_002 + number for number in range(partials.KEPT_FILES)]
    newest = site.cache.entries()[-1]
    os.utime(newest.path, (time.time() - partials.KEPT_SECONDS - 10,) * 2)
    site.cache.remove_leftovers()
    assert newest.size not in site.kept and len(site.kept) == partials.KEPT_FILES - 1
    folder = site.cache.root / "partial"
    (folder / f"{'a' * 64}.part").write_bytes(b"of a process that was killed early")
    (folder / f"{'b' * 64}.json").write_bytes(b"{}")
    site.cache.remove_leftovers()
    assert len(site.left()) == 2 * (partials.KEPT_FILES - 1)


def test_cache_shows_and_frees_parts(site: Site) -> None:
    site.interrupt()
    (entry,) = site.cache.entries()
    assert (entry.kind, entry.sha256, entry.size) == (Kind.PARTIAL, SHA256, HALF)
    assert site.cache.size() == HALF
    assert site.cache.verify() == []
    assert site.cache.file(SHA256) is None
    assert site.cache.remove(SHA256) == HALF
    assert (site.cache.entries(), site.left()) == ([], [])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_is_not_filled_with_what_is_kept(small_disk: Path) -> None:
    class Untold(Server):
        def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
            sink.expect(None, "1")
            for start in range(0, len(CONTENT), 300_000):
                sink.write(CONTENT[start : start + 300_000])
            return FetchInfo()

    site = Site(small_disk, Untold())
    with pytest.raises(TransferError, match="No space left"):
        site.fetch()
    assert site.left() == []
