"""Room on a disk, looked at before something large is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from medperf_core.errors import TransferError
from medperf_core.site.sizes import readable

MARGIN = 64 << 20
"""Bytes that must be left on a disk."""


def check_room(place: Path, size: int, what: str) -> None:
    """Make sure that a disk has room.

    Args:
        place: a folder on it.
        size: bytes that will be written.
        what: will be written, for the message.

    Raises:
        TransferError: there is too little.
    """
    free = shutil.disk_usage(place).free
    if size + MARGIN > free:
        raise TransferError(
            f"There is no room for {what}: it needs {readable(max(size, 0))}, and {readable(MARGIN)} to spare, in "
            f"{place}, where {readable(free)} are free.",
            hint="Free some, or use another disk. Nothing was written, and what an interrupted run left is kept.",
        )
