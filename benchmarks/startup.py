"""How long ``medperf`` takes to start, against what it cannot do without."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.paired import Ratio, compare

CLICK = "import click"
NEEDED = "import click, pluggy, attrs, yaml; from importlib.metadata import entry_points; entry_points(group='medperf')"


class Case(NamedTuple):
    """A command of ours, the Python that it is held against, and the ratio that it must reach."""

    command: tuple[str, ...]
    peer: str
    limit: float


CASES = (
    Case(("medperf", "--version"), CLICK, 2.0),
    Case(("medperf", "--help"), NEEDED, 1.5),
    Case(("medperf", "plugin", "ls"), NEEDED, 1.5),
)


def measure(programs: Path, home: Path) -> list[tuple[Case, Ratio]]:
    """All cases, with the programs of an installation and an own home folder."""
    return [
        (
            case,
            compare(
                (str(programs / case.command[0]), *case.command[1:]),
                (str(programs / "python"), "-c", case.peer),
                MEDPERF_HOME=str(home),
            ),
        )
        for case in CASES
    ]
