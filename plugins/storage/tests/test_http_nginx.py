"""Cuts, changes and odd ways of serving, by a real web server behind a door that cuts, and what a site makes of it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
import pytest

from medperf_core.errors import MedperfError, TransferError
from medperf_core.plugin import BackendContext, Event, Notice
from medperf_core.plugin.testing.relay import Relay
from medperf_core.site.cache import Cache, Kind
from medperf_core.site.fetch import Fetched, Fetcher, Origin
from medperf_storage import http
from medperf_storage.blocks import Blocks
from medperf_storage.http import HttpStorage
from medperf_storage.settings import HttpSettings
from tests.engines import require
from tests.engines.nginx import CA, HTTP, HTTPS, LOGIN, ROOT

if TYPE_CHECKING:
    from conftest import Client

SIZE = 8_000_000
CONTENT = os.urandom(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SECRET = "hunter2-hunter2"


@attrs.define
class Door:
    """nginx behind a relay, with a folder of its own."""

    relay: Relay
    port: int
    tls_port: int
    folder: Path
    authority: Path

    def put(self, content: bytes = CONTENT, name: str = "file.bin", *, seconds: float | None = None) -> None:
        """A file, changed at ``seconds`` since the epoch."""
        new = self.folder / f".{name}"
        new.write_bytes(content)
        if seconds is not None:
            os.utime(new, (seconds, seconds))
        new.replace(self.folder / name)

    def url(self, way: str = "", name: str = "file.bin", login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}/{way}{self.folder.name}/{name}"


@pytest.fixture
def door() -> Iterator[Door]:
    engine = require("nginx")
    relay = Relay()
    ports = [urlsplit(engine[key]).port or 0 for key in (HTTP, HTTPS)]
    folder = Path(engine[ROOT], f"door-{uuid.uuid4().hex}")
    folder.mkdir()
    yield Door(relay, relay.front(ports[0]), relay.front(ports[1]), folder, Path(engine[CA]))
    relay.close()
    shutil.rmtree(folder)


@attrs.define
class Site:
    """A site's fetcher with the store, and the events."""

    root: Path
    events: list[Event] = attrs.field(factory=list)

    def fetch(self, url: str, sha256: str | None = SHA256, attempts: int = 3) -> Fetched:
        context = BackendContext(self.root, self.root, emit=self.events.append)
        store = HttpStorage(HttpSettings(attempts=attempts, pause=0.0), context)
        return Fetcher(self.cache, lambda scheme: store, context).fetch(url, origin=Origin.TYPED, sha256=sha256)

    @property
    def cache(self) -> Cache:
        return Cache(self.root / "cache")

    @property
    def kept(self) -> list[int]:
        return [entry.size for entry in self.cache.entries() if entry.kind is Kind.PARTIAL]

    def files(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_ten_cuts_cost_no_bytes(door: Door, client: Client) -> None:
    door.put()
    chance = random.Random(9)
    client.settings = HttpSettings(pause=0.0)

    def again() -> None:
        door.relay.cut(chance.randrange(1, SIZE // 8), times=int(door.relay.cuts < 10))

    again()
    door.relay.on_cut = again
    client.fetch(door.url())
    assert (client.sink.data, client.sink.restarts, door.relay.cuts) == (CONTENT, 0, 10)
    assert door.relay.sent <= SIZE * 1.05


def test_ten_cuts_of_several_connections_cost_no_bytes(
    door: Door, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "WATCHED_SECONDS", 0.02)
    monkeypatch.setattr(http, "SLOW", 1 << 60)
    monkeypatch.setattr(http, "WORTH_MORE", 1 << 20)
    monkeypatch.setattr(http, "BLOCK", 1 << 20)
    door.put()
    client.settings = HttpSettings(pause=0.0)
    made: list[Blocks] = []
    monkeypatch.setattr(http, "Blocks", lambda *words: made.append(Blocks(*words)) or made[-1])
    door.relay.on_cut = lambda: door.relay.cut(300_000, times=int(door.relay.cuts < 10))
    door.relay.cut(300_000, times=1)
    client.fetch(door.url("throttled/"))
    assert (client.sink.data, client.sink.restarts, door.relay.cuts) == (CONTENT, 0, 10)
    assert made
    assert door.relay.sent <= SIZE * 1.05


def test_throttled_connections_are_joined_by_more(door: Door, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WATCHED_SECONDS", 0.1)
    monkeypatch.setattr(http, "WORTH_MORE", 1 << 20)
    monkeypatch.setattr(http, "BLOCK", 1 << 20)
    door.put()
    assert client.fetch(door.url("throttled/")).joined
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 0)
    assert door.relay.connections == 1 + HttpSettings().connections, "connections are not used again"
    assert door.relay.sent <= SIZE * 1.05


def test_without_ranges_all_comes_again(door: Door, client: Client) -> None:
    door.put()
    door.relay.cut(3_000_000, times=1)
    client.fetch(door.url("whole-only/"))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 1)
    assert door.relay.sent > SIZE * 1.3


@pytest.mark.parametrize(("seconds", "restarts"), [(1_700_000_000, 0), (None, 1)])
def test_without_an_etag_an_old_file_is_gone_on_with(
    seconds: float | None, restarts: int, door: Door, client: Client
) -> None:
    door.put(seconds=seconds)
    door.relay.cut(3_000_000, times=1)
    client.fetch(door.url("no-etag/"))
    assert (client.sink.data, client.sink.restarts) == (CONTENT, restarts)


def test_file_that_changes_half_way(door: Door, client: Client) -> None:
    door.put(os.urandom(SIZE), seconds=1_700_000_000)
    door.relay.on_cut = door.put
    door.relay.cut(3_000_000, times=1)
    client.fetch(door.url())
    assert (client.sink.data, client.sink.restarts) == (CONTENT, 1)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("compressed/", "comes compressed"),
        ("to-a-file/", "scheme file"),
        ("to-another-host/", r"files\.invalid/file\.bin could not be fetched"),
        ("login/", "needs a login"),
    ],
)
def test_ways_that_lead_to_no_file(way: str, words: str, door: Door, client: Client) -> None:
    door.put()
    with pytest.raises(TransferError, match=words):
        client.fetch(door.url(way))
    assert client.sink.data == b""


def test_encrypted_and_cut(door: Door, client: Client) -> None:
    door.put()
    door.relay.cut(3_000_000, times=2)
    url = f"https://127.0.0.1:{door.tls_port}/{door.folder.name}/file.bin"
    client.fetch(url, ca_bundle=door.authority)
    assert (client.sink.data, client.sink.restarts, door.relay.cuts) == (CONTENT, 0, 2)


def test_next_command_goes_on(door: Door, site: Site) -> None:
    door.put()
    door.relay.cut(3_000_000, times=1)
    with pytest.raises(TransferError, match="cut short"):
        site.fetch(door.url(), attempts=1)
    (kept,) = site.kept
    assert 2_900_000 < kept <= 3_000_000
    assert f"{kept} bytes are kept" in repr(site.events)
    before = door.relay.sent
    assert site.fetch(door.url()).path.read_bytes() == CONTENT
    assert door.relay.sent - before <= (SIZE - kept) * 1.05
    assert site.kept == [] and list((site.root / "cache" / "partial").glob("*.json")) == []


def test_next_command_begins_anew_with_a_new_file(door: Door, site: Site) -> None:
    door.put(os.urandom(SIZE), seconds=1_700_000_000)
    door.relay.cut(3_000_000, times=1)
    with pytest.raises(TransferError):
        site.fetch(door.url(), attempts=1)
    door.put()
    assert site.fetch(door.url()).path.read_bytes() == CONTENT


def test_etag_that_lies_costs_one_more_fetch_and_no_more(door: Door, site: Site) -> None:
    """The same ETag for other bytes: what was put together is wrong, and is fetched once more in one piece."""
    door.put(os.urandom(SIZE))
    door.relay.on_cut = door.put
    door.relay.cut(3_000_000, times=1)
    assert site.fetch(door.url("same-etag/")).path.read_bytes() == CONTENT
    assert [event for event in site.events if isinstance(event, Notice) and "once more" in event.message]

    wrong = os.urandom(SIZE)
    door.put(wrong, "other.bin")
    door.relay.on_cut = lambda: None
    door.relay.cut(3_000_000, times=1)
    expected = "0" * 64
    with pytest.raises(MedperfError, match=hashlib.sha256(wrong).hexdigest()):
        site.fetch(door.url("same-etag/", "other.bin"), expected)
    assert site.kept == []


def test_kept_part_that_lies_never_condemns_the_file(door: Door, site: Site) -> None:
    door.put(os.urandom(SIZE))
    door.relay.cut(3_000_000, times=1)
    with pytest.raises(TransferError):
        site.fetch(door.url("same-etag/"), attempts=1)
    assert site.kept
    door.put()
    assert site.fetch(door.url("same-etag/")).path.read_bytes() == CONTENT


def test_login_and_token_are_told_to_nobody_and_kept_nowhere(
    door: Door, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    door.put()
    user, password = LOGIN
    door.relay.cut(3_000_000, times=1)
    url = f"{door.url('login/', login=f'{user}:{password}@')}?X-Amz-Signature={SECRET}&token={SECRET}#{SECRET}"
    with pytest.raises(TransferError) as caught:
        site.fetch(url, attempts=1)
    assert site.kept
    told = f"{caught.value} {site.events!r}"
    assert password not in told and SECRET not in told
    for path in site.files():
        assert not any(secret.encode() in path.read_bytes() for secret in (password, SECRET)), path
    # Another signature for the same file is no other file.
    before = door.relay.sent
    fetched = site.fetch(url.replace(f"Signature={SECRET}", "Signature=another"))
    assert door.relay.sent - before < SIZE * 0.7
    assert (fetched.path.read_bytes(), SECRET in fetched.url_redacted) == (CONTENT, False)
    assert site.cache.partials.parts() == []


FETCH = """
import re, sys
from pathlib import Path
from medperf_core.plugin import BackendContext
from medperf_core.site.cache import Cache
from medperf_core.site.fetch import Fetcher, Origin
from medperf_storage import http
from medperf_storage.http import HttpStorage
from medperf_storage.settings import HttpSettings
root, url, sha256, slow = Path(sys.argv[1]), *sys.argv[2:]
if slow:
    http.SLOW, http.WATCHED_SECONDS = 1 << 60, 0.01
context = BackendContext(root, root)
store = HttpStorage(HttpSettings(), context)
Fetcher(Cache(root / "cache"), lambda scheme: store, context).fetch(url, origin=Origin.TYPED, sha256=sha256)
# The most memory that getrusage tells includes that of the process which started this one.
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


@pytest.mark.parametrize("slow", ["", "slow"])
def test_memory_is_flat(slow: str, door: Door, site: Site) -> None:
    """300 MiB, through one connection and through several, in less than 100 MiB."""
    piece = os.urandom(1 << 20)
    with (door.folder / "large.bin").open("wb") as stream:
        for _ in range(300):
            stream.write(piece)
    digest = hashlib.sha256()
    for _ in range(300):
        digest.update(piece)
    done = subprocess.run(
        [sys.executable, "-c", FETCH, site.root, door.url(name="large.bin"), digest.hexdigest(), slow],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 100
    assert door.relay.connections == (5 if slow else 1)
