"""Bundles on disks that are full: told in words, nothing lost, and gone on with when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from medperf_core.errors import MedperfError, TransferError
from medperf_core.journeys.bundle import create_bundle
from medperf_core.site import bundle_room
from medperf_core.site.bundle_part import part_of
from medperf_core.site.cache_move import move_cache
from medperf_core.site.home import Home
from tests.faults.test_full_disk import fill

from .bundles import Island, members
from .conftest import Tutorial


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m,mode=700", "none", str(disk)], check=False).returncode:
        pytest.skip("this user cannot mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up after it was looked at."""
    monkeypatch.setattr(bundle_room, "MARGIN", -(1 << 40))


def leave(filler: Path, free: int) -> None:
    """Give back a little of a full disk."""
    with filler.open("r+b") as stream:
        stream.truncate(filler.stat().st_size - free)


def test_a_disk_that_fills_up_while_the_bundle_is_written(
    shared: Tutorial, bundle: Path, small_disk: Path, unforeseen: None
) -> None:
    output, filler = small_disk / "b.tar", fill(small_disk)
    for free in (0, 28 << 10):
        leave(filler, free)
        with shared.site() as site, pytest.raises(TransferError, match=r"cannot be written: No space left.*goes on"):
            create_bundle(site, benchmark=1, output=output, platforms=["process"])
        assert not output.exists()
    begun = part_of(output).read_bytes()
    assert begun
    filler.unlink()
    with shared.site() as site:
        made = create_bundle(site, benchmark=1, output=output, platforms=["process"])
    assert made.kept > 0 and output.read_bytes().startswith(begun[: made.kept])
    assert [data for _, data in members(output)[2:]] == [data for _, data in members(bundle)[2:]]


def test_a_disk_that_fills_up_while_a_bundle_is_loaded(
    bundle: Path, far: Island, small_disk: Path, unforeseen: None
) -> None:
    move_cache(Home(far.home), small_disk / "cache")
    filler = fill(small_disk)
    for free in (0, 20 << 10):
        leave(filler, free)
        with pytest.raises(TransferError, match=r"could not be written to the cache: No space left"):
            far.load(bundle)
        assert far.is_untouched
    filler.unlink()
    far.load(bundle)
    with far.site() as site:
        assert site.cache.verify() == []


def test_a_disk_that_fills_up_while_an_image_is_saved(
    docker: Tutorial, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_cache(Home(docker.home), small_disk / "cache")
    output = docker.folder.parent / "b.tar"
    filler = fill(small_disk)
    leave(filler, 4 << 20)

    def create() -> None:
        with docker.site() as site:
            create_bundle(site, benchmark=1, output=output, platforms=["docker"], unsigned=True)

    with pytest.raises(TransferError, match=r"no room for saving the image of .*: it needs .* are free"):
        create()
    monkeypatch.setattr(bundle_room, "MARGIN", -(1 << 40))
    with pytest.raises(MedperfError, match=r"image.* be written.*: No space left on device"):
        create()
    with docker.site() as site:
        assert site.cache.verify() == [] and list((site.cache.root / "temp").iterdir()) == []
        assert not list((site.cache_dir / "work").rglob("image.tar"))
    assert not output.exists()
    filler.unlink()
    create()
    assert len(members(output)) > 3
    output.unlink()
