"""How the results of a test are shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medperf_core.cli.output import cell
from medperf_core.cli.table import print_table
from medperf_core.entities import TestReport


def print_results(report: TestReport) -> None:
    """The results of a test as a table."""
    print_table(("Result", "Value"), [list(row) for row in flat(report.results)], empty="There are no results.")


def flat(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested results as rows: the path of each value, joined by dots, and the value."""
    for key, value in results.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield prefix + str(key), "[" + ", ".join(map(_short, value)) + "]"
        else:
            yield prefix + str(key), _short(value)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else cell(value)
