"""A load that was interrupted goes on at the byte where it was, believes nothing that it finds, and reads no more."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core import Site
from medperf_core.errors import TransferError, VerificationError
from medperf_core.journeys.bundle import load_bundle
from medperf_core.site import bundle_room
from medperf_core.site.cache import Cache, Kind
from medperf_core.site.tarstream import TarStream

from .bundles import OFFLINE, Island, resigned, rewritten
from .conftest import Tutorial

LARGE = hashlib.shake_256(b"weights").digest(16 << 20)
SHA256 = hashlib.sha256(LARGE).hexdigest()
KILLED_AT = 10 << 20

KILLED = """
import os, signal, sys
from pathlib import Path
from medperf_core import Site, SiteOptions
from medperf_core.journeys import bundle

def counting(site, step, total):
    done = 0
    def count(size):
        nonlocal done
        done += size
        if done >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    return count

bundle._progress = counting
with Site.open(Path(sys.argv[1]), profile="island", options=SiteOptions(offline=True)) as site:
    bundle.load_bundle(site, Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def large(shared: Tutorial, bundle: Path) -> Iterator[Path]:
    """A signed bundle with one large file more."""
    head = bundle.with_name("head.tar")

    def listed(index: dict[str, Any]) -> None:
        entries = [*index["entries"], {"sha256": SHA256, "size": len(LARGE), "what": "weights"}]
        index["entries"] = sorted(entries, key=lambda entry: str(entry["sha256"]))

    def added(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        found[2:] = sorted([*found[2:], (tarfile.TarInfo(SHA256), LARGE)], key=lambda member: member[0].name)

    resigned(shared, bundle, head, listed)
    yield rewritten(head, bundle.with_name("large.tar"), added)


@attrs.frozen
class Reading:
    """Counts what is taken from a bundle's file, by each load."""

    sizes: list[int] = attrs.field(factory=list)

    @property
    def total(self) -> int:
        return sum(self.sizes)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Reading:
    counted, real = Reading(), TarStream._take

    def take(self: TarStream, size: int) -> bytes:
        data = real(self, size)
        counted.sizes.append(len(data))
        return data

    monkeypatch.setattr(TarStream, "_take", take)
    return counted


def kill(far: Island, large: Path) -> Path:
    """What a load leaves that is killed in the middle of the large file."""
    words = [sys.executable, "-c", KILLED, str(far.home), str(large), str(KILLED_AT)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    cache = Cache(far.home / "cache" / "files")
    assert cache.file(SHA256) is None
    (part,) = [entry for entry in cache.entries() if entry.kind is Kind.PARTIAL]
    assert part.sha256 == SHA256 and KILLED_AT - (1 << 20) <= part.size < len(LARGE)
    return part.path


def whole(far: Island) -> Path:
    """The large file, after the cache was checked."""
    with far.site() as site:
        assert site.cache.verify() == [] and len(site.bundles) == 1
        path = site.cache.file(SHA256)
        assert path is not None and path.read_bytes() == LARGE
        assert not any((site.cache.root / "partial").glob("*.[pj]*"))
        return path


def test_a_killed_load_goes_on_within_the_file(large: Path, far: Island, read: Reading) -> None:
    part = kill(far, large)
    inode, there = part.stat().st_ino, part.stat().st_size
    far.load(large)
    assert read.total <= large.stat().st_size - there
    assert whole(far).stat().st_ino == inode


def test_what_is_in_the_cache_is_not_read_again(large: Path, far: Island, read: Reading) -> None:
    far.load(large)
    assert read.total >= len(LARGE)
    read.sizes.clear()
    with far.site() as site:
        entries = load_bundle(site, large).index.entries
    assert read.total <= large.stat().st_size - sum(entry.size for entry in entries)
    whole(far).chmod(0o600)
    whole(far).write_bytes(b"changed")  # which the cache notices, so that it is missing
    far.load(large)
    whole(far)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "another byte": lambda data: data[:5_000_000] + bytes([data[5_000_000] ^ 1]) + data[5_000_001:],
    "longer than it is": lambda data: LARGE + b"more",
    "whole": lambda data: LARGE,
    "whole but wrong": lambda data: bytes(len(LARGE)),
    "empty": lambda data: b"",
    "short": lambda data: data[:7],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_was_kept_is_never_believed(what: str, large: Path, far: Island) -> None:
    part = kill(far, large)
    part.write_bytes(DAMAGE[what](part.read_bytes()))
    far.load(large)
    whole(far)


def test_a_wrong_file_is_refused_whatever_was_kept_of_it(large: Path, far: Island, tmp_path: Path) -> None:
    def damage(found: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        number = next(number for number, (item, _) in enumerate(found) if item.name == SHA256)
        found[number] = (found[number][0], LARGE[:-1] + bytes([LARGE[-1] ^ 1]))

    kill(far, large)
    changed = rewritten(large, tmp_path / "changed.tar", damage)
    with pytest.raises(VerificationError, match=r"weights .* is not what its maker signed"):
        far.load(changed)
    assert far.is_untouched
    far.load(large)
    whole(far)


def test_a_bundle_that_was_cut_leaves_what_came(large: Path, far: Island, tmp_path: Path, read: Reading) -> None:
    cut = tmp_path / "cut.tar"
    data = large.read_bytes()
    cut.write_bytes(data[: data.index(LARGE) + (9 << 20)])
    with pytest.raises(Exception, match="cut short"):
        far.load(cut)
    read.sizes.clear()
    far.load(large)
    assert read.total <= len(data) - (8 << 20)
    whole(far)


def test_two_at_once(large: Path, far: Island) -> None:
    with far.site() as site, site.cache.partials.taken("bundle", SHA256) as mine:
        assert mine is not None
        load_bundle(site, large)
        assert site.cache.file(SHA256) is not None
    whole(far)


def test_room_is_needed_for_the_rest_only(large: Path, far: Island, monkeypatch: pytest.MonkeyPatch) -> None:
    there = kill(far, large).stat().st_size
    usage = type("Usage", (), {"free": len(LARGE) - there + (1 << 20)})
    monkeypatch.setattr(bundle_room, "MARGIN", 0)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    far.load(large)
    whole(far).parent.joinpath(SHA256).unlink()
    with pytest.raises(TransferError, match=r"no room for the files of .*16\.0 MiB"):
        far.load(large)


def test_what_is_kept_is_freed_after_days(large: Path, far: Island) -> None:
    part = kill(far, large)
    with far.site() as site:
        site.cache.remove_leftovers()
        assert part.exists()
        then = time.time() - 8 * 24 * 3600
        os.utime(part, (then, then))
        site.cache.remove_leftovers()
        assert not part.exists()


def test_it_tells_what_was_here(large: Path, far: Island) -> None:
    kill(far, large)
    told: list[str] = []
    for _ in range(2):
        with Site.open(
            far.home, profile="island", options=OFFLINE, on_event=lambda event: told.append(str(event))
        ) as site:
            load_bundle(site, large)
    finished = [text for text in told if text.startswith("StepFinished(what='Loading")]
    assert "of an interrupted run" in finished[0] and "12 of 12 files were here already" in finished[1]
