"""A line of the table."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.paired import Ratio


class Row(NamedTuple):
    """What was measured, what it is held against, the ratio, the ratio that it must reach, and the unit of both."""

    what: str
    peer: str
    ratio: Ratio
    limit: float
    unit: str = "s"

    @property
    def reached(self) -> bool:
        return self.ratio.ratio <= self.limit

    def line(self) -> str:
        """As the table of docs/performance.md has it."""
        ours, peer = (
            (_readable(self.ratio.ours), _readable(self.ratio.peer))
            if self.unit == "s"
            else (f"{self.ratio.ours:,.0f} {self.unit}", f"{self.ratio.peer:,.0f} {self.unit}")
        )
        return f"| {self.what} | {ours} | {self.peer} | {peer} | {self.ratio.ratio:.2f} | {self.limit:g} |"


def _readable(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.002 else f"{seconds * 1e6:.0f} us"
