"""The results file, as plain YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bootstrap import Estimate


def write(path: Path, cases: int, estimates: dict[str, Estimate], settings: dict[str, Any]) -> None:
    """Write the number of cases, each score with its interval, and how the intervals were made."""
    lines = [f"cases: {cases}"]
    for name, found in estimates.items():
        value, low, high = (repr(round(figure, settings["decimals"])) for figure in found)
        lines += [f"{name}:", f"  value: {value}", f"  ci95: [{low}, {high}]"]
    lines += [
        f"threshold: {settings['threshold']!r}",
        "bootstrap:",
        "  method: stratified percentile",
        f"  replicates: {settings['n_bootstrap']}",
        f"  seed: {settings['seed']}",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
