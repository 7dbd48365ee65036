"""How much is measured: as the limits are meant, or a hundredth of it to see that all works."""

from __future__ import annotations

from typing import NamedTuple

MIB = 1 << 20


class Sizes(NamedTuple):
    """Bytes, numbers of files, and how often each pair is measured."""

    large_files: int
    large_bytes: int
    small_files: int
    small_bytes: int
    transfer_bytes: int
    weights_bytes: int
    bucket_files: int
    bucket_bytes: int
    runs: int
    long_runs: int
    bucket_runs: int


FULL = Sizes(8, 512 * MIB, 20_000, 16 << 10, 1024 * MIB, 1024 * MIB, 2_000, 100 << 10, 11, 3, 5)
QUICK = Sizes(8, 4 * MIB, 500, 16 << 10, 16 * MIB, 16 * MIB, 100, 100 << 10, 3, 1, 1)
