"""Predictions and labels, matched patient by patient."""

from __future__ import annotations

import csv
import math
from pathlib import Path

ID = "patient_id"
SHOWN = 20


class InputError(Exception):
    """Predictions and labels cannot be compared; one sentence per reason, the first ones only."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons: list[str] = list(reasons[:SHOWN])
        if len(reasons) > SHOWN:
            self.reasons.append(f"... and {len(reasons) - SHOWN} more")


def read(predictions: Path, labels: Path) -> tuple[list[float], list[float]]:
    """Predicted probabilities of the malignant and of the benign patients."""
    truth = _table(labels, "labels.csv", "malignant")
    given = _table(predictions, "predictions.csv", "probability")
    reasons = [f"no prediction for patient {name}" for name in sorted(truth.keys() - given.keys())]
    reasons += [f"prediction for unknown patient {name}" for name in sorted(given.keys() - truth.keys())]
    wrong = {name: text for name, text in truth.items() if text not in ("0", "1")}
    reasons += [f"patient {name}: label {text!r} is not 0 or 1" for name, text in wrong.items()]
    probabilities = {name: _probability(text) for name, text in given.items()}
    for name, value in probabilities.items():
        if math.isnan(value):
            reasons.append(f"patient {name}: probability {given[name]!r} is not a number from 0 to 1")
    if reasons:
        raise InputError(*reasons)
    malignant = [probabilities[name] for name in sorted(truth) if truth[name] == "1"]
    benign = [probabilities[name] for name in sorted(truth) if truth[name] == "0"]
    if not malignant or not benign:
        raise InputError("both malignant and benign patients are needed")
    return malignant, benign


def _table(folder: Path, name: str, column: str) -> dict[str, str]:
    if not folder.is_dir() or not any(folder.iterdir()):
        raise InputError(f"the folder for {name} is empty or missing: {folder}")
    if not (folder / name).is_file():
        raise InputError(f"{folder} holds no {name}")
    with (folder / name).open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream))
    if not lines or lines[0] != [ID, column]:
        raise InputError(f"{name}: the columns must be {ID} and {column}")
    if len(lines) == 1:
        raise InputError(f"{name} holds no patients")
    rows: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != 2:
            raise InputError(f"{name}, line {number}: expected 2 fields, got {len(line)}")
        if line[0] in rows:
            raise InputError(f"{name}: patient {line[0]} occurs twice")
        rows[line[0]] = line[1]
    return rows


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if 0 <= value <= 1 else math.nan
