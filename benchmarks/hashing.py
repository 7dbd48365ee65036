"""Hashing folders for the first time, and again when nothing changed."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks import material
from benchmarks.paired import compare_calls
from benchmarks.rows import Row
from benchmarks.sizes import MIB, Sizes
from medperf_core.plugin.digest import tree_digest
from medperf_core.site.digest_cache import YOUNG_NS, DigestCache

FIRST_LIMIT = 1.1
AGAIN_LIMIT = 2.0


def measure(folder: Path, sizes: Sizes) -> list[Row]:
    """Large and small files, each in the process that asks: what starts and loads it is measured elsewhere."""
    large, small = folder / "large", folder / "small"
    material.large_files(large, sizes.large_files, sizes.large_bytes)
    material.small_files(small, sizes.small_files, sizes.small_bytes)
    os.sync()
    time.sleep(YOUNG_NS / 1e9 + 0.1)  # what is younger is not remembered
    return [
        *_rows(f"{sizes.large_files} files of {sizes.large_bytes // MIB} MiB", large, folder, sizes.long_runs + 2),
        *_rows(f"{sizes.small_files:,} files of {sizes.small_bytes >> 10} KiB", small, folder, sizes.runs),
    ]


def _rows(what: str, root: Path, folder: Path, runs: int) -> list[Row]:
    cache = DigestCache(folder / "digests")
    first = compare_calls(lambda: tree_digest(root), lambda: _openssl(root), runs)
    if cache.tree_digest(root) != tree_digest(root):
        raise RuntimeError("what is remembered is not what is computed")
    again = compare_calls(lambda: cache.tree_digest(root), lambda: _walk(str(root)), 10 * runs)
    return [
        Row(f"hashing {what}", "`find -exec openssl dgst -sha256`", first, FIRST_LIMIT),
        Row(f"{what} again, unchanged", "a walk with scandir and stat", again, AGAIN_LIMIT),
    ]


def _openssl(root: Path) -> None:
    command = ["find", str(root), "-type", "f", "-exec", "openssl", "dgst", "-sha256", "{}", "+"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _walk(folder: str) -> None:
    with os.scandir(folder) as listing:
        for item in listing:
            if item.is_dir(follow_symlinks=False):
                _walk(item.path)
            else:
                item.stat(follow_symlinks=False)
