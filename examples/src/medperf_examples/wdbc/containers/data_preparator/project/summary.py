"""Task `statistics`: what may leave the hospital when the dataset is registered."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import tables
from schema import COLUMNS


def run(data_path: Path, labels_path: Path, output_path: Path, settings: dict[str, Any]) -> None:
    """Write counts and coarse summaries; there is no row per patient in the file."""
    cases, labels = tables.read_cases(data_path), tables.read_labels(labels_path)
    smallest = settings["suppress_counts_below"]
    lines = [f"cases: {_count(len(cases), smallest)}", "classes:"]
    malignant = sum(labels.values())
    counts = {"malignant": malignant, "benign": len(labels) - malignant}
    # The total would give away one small class, so both are withheld together.
    shown = min(counts.values()) >= smallest
    lines += [f"  {name}: {count if shown else _suppressed(smallest)}" for name, count in counts.items()]
    if len(cases) >= max(smallest, 2):
        lines.append("features:")
        for column in COLUMNS:
            lines.append(f"  {column}: {{{_describe([values[column] for values in cases.values()])}}}")
    output_path.parent.mkdir(parents=True, exist_ok=True)
    output_path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _count(number: int, smallest: int) -> str:
    return str(number) if number >= smallest else _suppressed(smallest)


def _suppressed(smallest: int) -> str:
    return f"suppressed (below {smallest})"


def _describe(values: list[float]) -> str:
    # Two digits for the extremes: each of them belongs to a single patient.
    figures = {
        "mean": _rounded(statistics.fmean(values), 4),
        "sd": _rounded(statistics.stdev(values), 4),
        "min": _rounded(min(values), 2),
        "max": _rounded(max(values), 2),
    }
    return ", ".join(f"{name}: {figure}" for name, figure in figures.items())


def _rounded(value: float, digits: int) -> str:
    return repr(float(f"{value:.{digits}g}"))
