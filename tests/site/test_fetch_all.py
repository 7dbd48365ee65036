"""Several files fetched beside each other."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from medperf_core.builtin.file import FileStorage
from medperf_core.errors import MedperfError, TransferError, VerificationError
from medperf_core.plugin import BackendContext, FetchInfo, FetchRequest, Sink, Storage
from medperf_core.site.cache import Cache
from medperf_core.site.fetch import Fetcher, Origin, Wanted


@attrs.define
class Scripted(Storage):
    """A store that does what a test says."""

    script: Callable[[FetchRequest, Sink], FetchInfo]

    def fetch(self, request: FetchRequest, sink: Sink) -> FetchInfo:
        return self.script(request, sink)


def fetcher(tmp_path: Path, storages: Callable[[str], Storage]) -> Fetcher:
    return Fetcher(Cache(tmp_path / "cache"), storages, BackendContext(tmp_path, tmp_path))


def test_all_come_in_the_order_in_which_they_are_wanted(tmp_path: Path) -> None:
    wanted = []
    for number in range(30):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"content {number}")
        wanted.append(Wanted(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()))
    wanted.append(wanted[3])
    made: list[str] = []

    def storages(scheme: str) -> Storage:
        made.append(scheme)
        return FileStorage()

    fetched = fetcher(tmp_path, storages).fetch_all(wanted, origin=Origin.TYPED)
    assert [each.sha256 for each in fetched] == [each.sha256 for each in wanted]
    assert [each.path.read_text() for each in fetched] == [f"content {number}" for number in [*range(30), 3]]
    assert made == ["file"], "each store is made once, so that it can use its connections again"


def test_several_are_under_way_at_a_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=20)

    def script(request: FetchRequest, sink: Sink) -> FetchInfo:
        both.wait()
        sink.write(request.url.encode())
        return FetchInfo()

    urls = ["https://host/a", "https://host/b"]
    fetched = fetcher(tmp_path, lambda scheme: Scripted(script)).fetch_all(
        [Wanted(url) for url in urls], origin=Origin.REMOTE
    )
    assert [each.path.read_text() for each in fetched] == urls


def test_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    waiting = threading.Event()
    ended: list[str] = []

    def script(request: FetchRequest, sink: Sink) -> FetchInfo:
        if request.url.endswith("missing"):
            waiting.wait(20)
            raise TransferError("missing is not there")
        try:
            while True:  # would never end by itself
                sink.write(b"x")
                waiting.set()
        except MedperfError as error:
            ended.append(type(error).__name__)
            raise

    work = fetcher(tmp_path, lambda scheme: Scripted(script))
    with pytest.raises(TransferError, match="missing is not there"):
        work.fetch_all([Wanted("https://host/endless"), Wanted("https://host/missing")], origin=Origin.REMOTE)
    assert ended == ["CancelledError"]
    assert not list((tmp_path / "cache" / "temp").iterdir())


def test_a_failure_leaves_the_site_usable_and_what_came_stays(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    good.write_text("good")
    right = hashlib.sha256(b"good").hexdigest()
    work = fetcher(tmp_path, lambda scheme: FileStorage())
    work.fetch(good.as_uri(), origin=Origin.TYPED, sha256=right)
    with pytest.raises(VerificationError, match="not the expected file"):
        work.fetch_all([Wanted(good.as_uri(), right), Wanted(good.as_uri(), "0" * 64)], origin=Origin.TYPED)
    assert work.fetch_all([Wanted(good.as_uri(), right)], origin=Origin.TYPED)[0].reused
