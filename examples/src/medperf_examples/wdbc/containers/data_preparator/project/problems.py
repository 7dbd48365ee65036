"""How the tasks say no."""

from __future__ import annotations

SHOWN = 20


class DataError(Exception):
    """The data cannot be used; one sentence per reason, the first ones only."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons: list[str] = list(reasons[:SHOWN])
        if len(reasons) > SHOWN:
            self.reasons.append(f"... and {len(reasons) - SHOWN} more")
