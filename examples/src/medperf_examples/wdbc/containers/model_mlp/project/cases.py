"""The prepared cases a model reads and the predictions it writes."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

ID = "patient_id"


class CaseError(Exception):
    """The prepared cases cannot be used."""


def read(folder: Path, features: Sequence[str]) -> dict[str, list[float]]:
    """Each patient's measurements in the order of `features`."""
    path = folder / "cases.csv"
    if not path.is_file():
        raise CaseError(f"{folder} holds no cases.csv")
    with path.open(newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream)
        missing = [name for name in (ID, *features) if name not in (table.fieldnames or [])]
        if missing:
            raise CaseError(f"cases.csv lacks the columns {', '.join(missing)}")
        cases: dict[str, list[float]] = {}
        for row in table:
            if row[ID] in cases:
                raise CaseError(f"cases.csv: patient {row[ID]} occurs twice")
            cases[row[ID]] = [_number(row[name], f"cases.csv, patient {row[ID]}, {name}") for name in features]
    if not cases:
        raise CaseError("cases.csv holds no patients")
    return cases


def write_predictions(folder: Path, probabilities: dict[str, float], decimals: int) -> None:
    """Write `predictions.csv` in the order of the cases."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([ID, "probability"])
        writer.writerows([name, f"{value:.{decimals}f}"] for name, value in probabilities.items())


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise CaseError(f"{where}: {text!r} is not a finite number")
    return value
