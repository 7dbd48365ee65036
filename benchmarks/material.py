"""What the measurements work on: files of noise, and of numbers as weights have them."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

PART = 16 << 20  # far more than what a compressor remembers, so parts may be repeated


def noise(path: Path, size: int) -> None:
    """A file that cannot be compressed."""
    _write(path, random.Random(str(path)).randbytes(min(size, PART)), size)


def small_files(root: Path, count: int, size: int) -> None:
    """Files of noise, a hundred in each folder."""
    for number in range(count):
        path = root / f"{number // 100:04}" / f"{number % 100:02}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(size))


def large_files(root: Path, count: int, size: int) -> None:
    """A few files of noise in one folder."""
    root.mkdir(parents=True)
    for number in range(count):
        noise(root / f"{number}.bin", size)


def weights(root: Path, size: int) -> None:
    """Two files of normally distributed float32, as the layers of a network are when they are saved."""
    root.mkdir(parents=True)
    numbers = random.Random(1)
    part = array("f", (numbers.gauss(0, 0.02) for _ in range(min(size, PART) // 4))).tobytes()
    for name in ("encoder.bin", "decoder.bin"):
        _write(root / name, part, size // 2)


def _write(path: Path, part: bytes, size: int) -> None:
    with path.open("wb") as stream:
        for start in range(0, size, len(part)):
            stream.write(part[: size - start])
