"""Sizes as people read them."""

from __future__ import annotations

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def readable(size: int) -> str:
    """A number of bytes as words: ``17 bytes``, ``3.2 MiB``, ``1.5 GiB``."""
    for unit, bytes_of_it in _UNITS:
        if size >= bytes_of_it:
            return f"{size / bytes_of_it:.1f} {unit}"
    return "1 byte" if size == 1 else f"{size} bytes"
