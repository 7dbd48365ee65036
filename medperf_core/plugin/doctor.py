"""What ``medperf doctor`` shows."""

from __future__ import annotations

from enum import StrEnum

import attrs


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@attrs.frozen
class Check:
    """One thing that was looked at.

    Attributes:
        name: such as "docker daemon".
        health: ok, warning or failed.
        found: what was found, one sentence or figure.
        advice: what to do about it; "" if nothing.
    """

    name: str
    health: Health
    found: str
    advice: str = ""
