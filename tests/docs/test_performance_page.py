"""The page of performance shows the cases that are measured, with figures that reach their limits."""

from __future__ import annotations

from benchmarks.startup import CASES

from .pages import DOCS, prose, rows

PAGE = DOCS / "performance.md"


def test_every_case_is_shown_with_its_limit_and_reaches_it() -> None:
    table = rows(PAGE, "command")
    assert [(row[0], float(row[5])) for row in table] == [(" ".join(case.command), case.limit) for case in CASES]
    assert all(float(row[4]) <= float(row[5]) for row in table)
    words = " ".join(prose(PAGE).split())
    assert all(f'`python -c "{case.peer}"`' in words for case in CASES)
