"""Buckets: a large file fetched, verified and stored; many small ones up and down; a connection that is cut.

The peers are the clouds' own Python clients, one file after the other, without verification.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import material
from benchmarks.clouds import PEERS, Cloud
from benchmarks.paired import Ratio, compare_calls
from benchmarks.rows import Row
from benchmarks.sizes import MIB, Sizes
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.testing.relay import Relay

LARGE_LIMIT = 1.05
SMALL_LIMIT = 0.6
CUT_LIMIT = 1.05
CUTS = 10
MEMORY_MIB = 150
SERVERS = {"s3": "Ceph", "gs": "fake-gcs-server"}


def measure(folder: Path, sizes: Sizes) -> Iterator[Row]:
    """Needs the servers of ``make engines``."""
    file, small = folder / "large.bin", folder / "small"
    material.noise(file, sizes.transfer_bytes)
    material.small_files(small, sizes.bucket_files, sizes.bucket_bytes)
    sha256 = file_digest(file)
    for scheme in PEERS:
        cloud = Cloud.of(scheme, folder)
        cloud.peer("put", str(file), "large.bin")
        try:
            yield _large(cloud, folder, sha256, sizes)
            yield _cut(cloud, folder, sha256, sizes)
            yield from _small(cloud, folder, small, sizes)
        finally:
            cloud.peer("clear")


def _large(cloud: Cloud, folder: Path, sha256: str, sizes: Sizes) -> Row:
    home, target = folder / "home", folder / "target"
    ratio = compare_calls(
        lambda: _ours(cloud, "fetch", cloud.url("large.bin"), sha256, str(home)),
        lambda: cloud.peer("fetch", "large.bin", str(target)),
        sizes.runs,
        _remover(home, target),
    )
    what = f"fetching {sizes.transfer_bytes // MIB} MiB from {SERVERS[cloud.scheme]}"
    return Row(what, PEERS[cloud.scheme], ratio, LARGE_LIMIT)


def _small(cloud: Cloud, folder: Path, small: Path, sizes: Sizes) -> Iterator[Row]:
    home, target = folder / "home", folder / "target"
    what = f"{sizes.bucket_files:,} files of {sizes.bucket_bytes >> 10} KiB"
    peer = f"{PEERS[cloud.scheme]}, one by one"
    before = _remover(home, target)

    def without_uploads() -> None:
        cloud.peer("clear", "up/")
        before()

    ratio = compare_calls(
        lambda: _ours(cloud, "up", str(small), cloud.url("up"), str(home)),
        lambda: cloud.peer("up", str(small), "up"),
        sizes.bucket_runs,
        without_uploads,
    )
    yield Row(f"{what} up to {SERVERS[cloud.scheme]}", peer, ratio, SMALL_LIMIT)
    ratio = compare_calls(
        lambda: _ours(cloud, "down", cloud.url("up"), str(small), str(home)),
        lambda: cloud.peer("down", str(target), "up"),
        sizes.bucket_runs,
        before,
    )
    yield Row(f"{what} down from {SERVERS[cloud.scheme]}", peer, ratio, SMALL_LIMIT)


def _cut(cloud: Cloud, folder: Path, sha256: str, sizes: Sizes) -> Row:
    """Bytes that the server sent when connections were cut ten times."""
    relay, home = Relay(), folder / "home"
    _remover(home)()
    try:
        door = relay.front(urlsplit(cloud.endpoint).port or 80)
        relay.cut(sizes.transfer_bytes // (CUTS + 2), CUTS)
        cloud.ours("fetch", cloud.url("large.bin"), sha256, str(home), through=door)
    finally:
        relay.close()
    if relay.cuts != CUTS:
        raise RuntimeError(f"only {relay.cuts} of {CUTS} cuts were made")
    size = sizes.transfer_bytes
    ratio = Ratio(relay.sent / MIB, size / MIB, relay.sent / size)
    return Row(f"read from {SERVERS[cloud.scheme]} with {CUTS} cuts", "the file's size", ratio, CUT_LIMIT, "MiB")


def _ours(cloud: Cloud, *work: str) -> float:
    seconds, memory = cloud.ours(*work)
    if memory > MEMORY_MIB:
        raise RuntimeError(f"{' '.join(work)} took {memory} MiB of memory")
    return seconds


def _remover(*paths: Path) -> Callable[[], None]:
    def remove() -> None:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        os.sync()  # what one run left to write must not slow down the next

    return remove
