"""A home on a disk that is full: an error in words, nothing half-done is taken for done, and it goes on afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .journey import STEPS, Journey


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320m,mode=700", "none", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this user cannot mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all of the room."""
    filler = disk / "filler"
    with filler.open("wb") as stream:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    os.write(stream.fileno(), b"\0" * size)
            except OSError:
                continue
    return filler


@pytest.mark.parametrize("step", range(1, len(STEPS)))
def test_each_command_on_a_full_disk_and_again_with_room(small_disk: Path, step: int) -> None:
    journey = Journey(small_disk / "journey")
    for earlier in STEPS[:step]:
        assert journey.medperf(*earlier).returncode == 0
    filler = fill(small_disk)
    full = journey.medperf(*STEPS[step])
    assert "Traceback" not in full.stdout
    assert full.returncode != 70, full.stdout
    filler.unlink()
    for later in STEPS[step:]:
        done = journey.medperf(*later)
        assert done.returncode == 0, f"{full.stdout}\n---\n{done.stdout}"
    assert journey.leftovers() == []
    assert [item["approval_status"] for item in journey.data("association", "ls")] == ["APPROVED"]
