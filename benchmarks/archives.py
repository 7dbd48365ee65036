"""Packing weights into ``additional_files.tar.gz``, and unpacking them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import material
from benchmarks.paired import Ratio, compare_calls
from benchmarks.rows import Row
from benchmarks.sizes import MIB, Sizes

PACK_LIMIT = 0.2
UNPACK_LIMIT = 1.1
SIZE_LIMIT = 1.04
MEMORY_MIB = 100


def measure(folder: Path, sizes: Sizes) -> list[Row]:
    """Packing, unpacking, and the sizes of the archives."""
    root, ours, theirs = folder / "weights", folder / "ours.tar.gz", folder / "theirs.tar.gz"
    material.weights(root, sizes.weights_bytes)
    pack = compare_calls(
        lambda: _worker("pack", root, ours),
        lambda: _run("tar", "czf", theirs, "-C", root, "."),
        sizes.long_runs,
        lambda: _clear(theirs),
    )
    bytes_of = ours.stat().st_size, theirs.stat().st_size
    target, other = folder / "ours", folder / "theirs"
    unpack = compare_calls(
        lambda: _worker("unpack", ours, target),
        lambda: _run("tar", "xzf", ours, "--one-top-level=" + str(other)),
        sizes.long_runs + 2,
        lambda: _clear(target, other),
    )
    what = f"{sizes.weights_bytes // MIB} MiB of weights"
    return [
        Row(f"packing {what}", "`tar czf`", pack, PACK_LIMIT),
        Row(f"unpacking {what}", "`tar xzf`", unpack, UNPACK_LIMIT),
        Row("the archive's size", "`tar czf`", Ratio(*bytes_of, bytes_of[0] / bytes_of[1]), SIZE_LIMIT, "bytes"),
    ]


def _worker(*arguments: str | Path) -> float:
    seconds, memory = _run(sys.executable, "-m", "benchmarks.workers", *arguments).split()
    if int(memory) > MEMORY_MIB:
        raise RuntimeError(f"{arguments[0]} took {memory} MiB of memory")
    return float(seconds)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _clear(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    os.sync()  # what one run left to write must not slow down the next
