"""How fast a transfer goes, and how long it will take."""

from __future__ import annotations

from collections import deque

SECONDS = 10.0
"""Only so much of the past counts."""
FIRST_SECONDS = 1.0
"""Nothing is told from less."""
KEPT = 64


class Pace:
    """Of one transfer, from what it tells of itself now and then."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        """Take in that ``done`` bytes are there at ``now``, in seconds of any clock."""
        told = self._told
        if told and done < told[-1][1]:
            told.clear()  # it began anew
        if len(told) > 1 and now - told[-2][0] < SECONDS / KEPT:
            told.pop()
        told.append((now, done))
        while len(told) > 2 and now - told[1][0] >= SECONDS:
            told.popleft()

    @property
    def rate(self) -> float | None:
        """Bytes per second; None while too little is known."""
        if not self._told or self._told[-1][0] - self._told[0][0] < FIRST_SECONDS:
            return None
        (first, before), (last, done) = self._told[0], self._told[-1]
        return (done - before) / (last - first)

    def left(self, total: int | None) -> float | None:
        """Seconds until ``total`` bytes are there; None if nobody can tell."""
        rate = self.rate
        if not rate or total is None:
            return None
        return max(total - self._told[-1][1], 0) / rate


def clock(seconds: float) -> str:
    """A time as ``0:07``, ``12:34`` or ``3:12:34``; ``days`` if it is that long."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
