"""Fetching a file from a web server on this machine: received, hashed, checked and stored durably in one pass."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import material
from benchmarks.paired import compare_calls
from benchmarks.rows import Row
from benchmarks.sizes import MIB, Sizes
from medperf_core.plugin.digest import file_digest
from tests.engines import load, nginx

LIMIT = 0.75
MEMORY_MIB = 100
"""More than this is not flat: a Python with an HTTP library alone needs a third of it."""


def measure(folder: Path, sizes: Sizes) -> list[Row]:
    """Needs the nginx of ``make engines``."""
    try:
        found = load()
        served = Path(found[nginx.ROOT]) / f"benchmark-{secrets.token_hex(8)}.bin"
        url = f"{found[nginx.HTTP]}/{served.name}"
    except KeyError:
        raise RuntimeError("nginx does not run; start it with: make engines") from None
    material.noise(served, sizes.transfer_bytes)
    sha256 = file_digest(served)
    home, file = folder / "home", folder / "file"
    try:
        ratio = compare_calls(
            lambda: _fetch(url, sha256, home), lambda: _curl(url, file), sizes.runs, lambda: _remove(home, file)
        )
    finally:
        served.unlink()
    what = f"fetching {sizes.transfer_bytes // MIB} MiB"
    return [Row(what, "`curl -s -o FILE URL && openssl dgst -sha256 FILE`", ratio, LIMIT)]


def _fetch(url: str, sha256: str, home: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.workers", "fetch", url, sha256, str(home)]
    seconds, memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if int(memory) > MEMORY_MIB:
        raise RuntimeError(f"fetching took {memory} MiB of memory")
    return float(seconds)


def _curl(url: str, file: Path) -> None:
    subprocess.run(["curl", "-s", "-o", str(file), url], check=True)
    subprocess.run(["openssl", "dgst", "-sha256", str(file)], check=True, stdout=subprocess.DEVNULL)


def _remove(home: Path, file: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    file.unlink(missing_ok=True)
    os.sync()  # what one run left to write must not slow down the next
