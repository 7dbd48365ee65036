"""An image archive that has not changed is not read again; one that may have changed is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from medperf_core.plugin import BackendContext, Event, StepStarted
from medperf_core.plugin.archive_memory import read_archive
from medperf_core.plugin.testing.saved_image import configuration, layer_digest, save


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def context(tmp_path: Path, events: list[Event]) -> BackendContext:
    return BackendContext(tmp_path / "cache", tmp_path / "tmp", emit=events.append)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    layer = tmp_path / "layer.tar"
    layer.write_bytes(b"\0" * 1024)
    digest = layer_digest(layer)
    path = tmp_path / "image.tar"
    save(path, configuration([digest], {"Cmd": ["sh"]}), [(layer, digest)], "localhost/x:1")
    return path


def reads(events: list[Event]) -> int:
    return sum(isinstance(event, StepStarted) for event in events)


def grow_old(path: Path) -> None:
    """Until the file's own times are so long ago that another change would show."""
    while time.time() - path.stat().st_ctime < 2.1:
        time.sleep(0.1)


def test_unchanged_is_read_once(context: BackendContext, events: list[Event], archive: Path) -> None:
    read_archive(archive, context)
    read_archive(archive, context)
    assert reads(events) == 2  # too young to be remembered
    grow_old(archive)
    first = read_archive(archive, context)
    again = read_archive(archive, context)
    assert reads(events) == 3
    assert again == first
    assert again[1][0].document == first[1][0].document != b""
    link = archive.with_name("link.tar")
    link.symlink_to(archive)
    assert read_archive(link, context) == first and reads(events) == 3
    changed = archive.read_bytes().replace(b'"sh"', b'"ls"')
    times = archive.stat()
    archive.write_bytes(changed)
    os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))  # as one would who wants it to go unnoticed
    assert read_archive(archive, context)[0] != first[0]


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"looks": 1}', b"[" * 100_000])
def test_a_damaged_memory_is_read_past(
    context: BackendContext, events: list[Event], archive: Path, junk: bytes
) -> None:
    grow_old(archive)
    first = read_archive(archive, context)
    [record] = (context.cache_dir / "image-archives").iterdir()
    record.write_bytes(junk)
    assert read_archive(archive, context) == first
    assert reads(events) == 2
