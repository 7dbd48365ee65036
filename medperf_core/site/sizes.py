"""Sizes as people read them."""

from __future__ import annotations

_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def unit_of(size: int) -> tuple[str, int]:
    """The unit that a number of bytes is told in, and how many bytes it has: ``("MiB", 1048576)``."""
    return next((pair for pair in _UNITS if size >= pair[1]), ("B", 1))


def readable(size: int) -> str:
    """A number of bytes as words: ``17 bytes``, ``3.2 MiB``, ``1.5 GiB``."""
    unit, bytes_of_it = unit_of(size)
    if bytes_of_it > 1:
        return f"{size / bytes_of_it:.1f} {unit}"
    return "1 byte" if size == 1 else f"{size} bytes"
