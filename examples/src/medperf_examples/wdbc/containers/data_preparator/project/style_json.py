"""Reader of one JSON file per patient with ratios in percent (hospital B's style)."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from problems import DataError
from schema import FEATURES

LENGTHS = ("radius", "texture", "perimeter", "area")
KEYS = {"average": "mean", "standard_error": "se", "largest": "worst"}
DIAGNOSES = {"malignant": True, "benign": False}


def read_cases(path: Path) -> list[tuple[str, dict[str, Decimal]]]:
    """The one patient of this file with measurements as plain ratios under harmonised names."""
    record = _members(_load(path), ["subject", "nuclei"], path.name)
    subject = _text(record["subject"], path.name)
    where = f"{path.name}, patient {subject}"
    names = {f if f in LENGTHS else f"{f}_percent": f for f in FEATURES}
    nuclei = _members(record["nuclei"], list(names), where)
    values = {}
    for given, feature in names.items():
        measured = _members(nuclei[given], list(KEYS), f"{where}, {given}")
        for key, statistic in KEYS.items():
            value = measured[key]
            if not isinstance(value, Decimal) or value < 0:
                raise DataError(f"{where}, {given} {key}: {value!r} is not a number of at least 0")
            values[f"{statistic}_{feature}"] = value if feature in LENGTHS else value.scaleb(-2)
    return [(subject, values)]


def read_labels(path: Path) -> list[tuple[str, bool]]:
    """Patients with True for malignant."""
    listed = _load(path)
    if not isinstance(listed, list):
        raise DataError(f"{path.name}: expected a list of outcomes")
    labels = []
    for item in listed:
        outcome = _members(item, ["subject", "diagnosis"], path.name)
        subject, diagnosis = (_text(outcome[key], path.name) for key in ("subject", "diagnosis"))
        if diagnosis not in DIAGNOSES:
            raise DataError(f"{path.name}, patient {subject}: unknown diagnosis {diagnosis!r}")
        labels.append((subject, DIAGNOSES[diagnosis]))
    return labels


def _load(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise DataError(f"{path.name}: {word} is not a number")

    try:
        text = path.read_text(encoding="utf-8-sig")
        # Decimals keep what was written, so that percent turn into ratios without a rounding error.
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=refuse)
    except ValueError as error:
        raise DataError(f"{path.name}: not readable as JSON: {error}") from None


def _members(value: Any, expected: list[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with {', '.join(expected)}")
    reasons = [f"{where}: {name!r} is missing" for name in expected if name not in value]
    reasons += [f"{where}: {name!r} is not expected here" for name in value if name not in expected]
    if reasons:
        raise DataError(*reasons)
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: {value!r} is not a name")
    return value
