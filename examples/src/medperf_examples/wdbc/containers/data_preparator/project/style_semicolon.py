"""Reader of semicolon tables with decimal commas and abbreviated German names (hospital A's style)."""

from __future__ import annotations

import csv
import re
from decimal import Decimal
from pathlib import Path

from problems import DataError

KEY = "PatNr"
FINDING = "Befund"
FINDINGS = {"boesartig": True, "gutartig": False}
NAMES = {
    "Radius": "radius",
    "Textur": "texture",
    "Umfang": "perimeter",
    "Flaeche": "area",
    "Glatth": "smoothness",
    "Kompakt": "compactness",
    "Konkav": "concavity",
    "KonkPkt": "concave_points",
    "Symm": "symmetry",
    "FraktDim": "fractal_dimension",
}
SUFFIXES = {"MW": "mean", "SF": "se", "Max": "worst"}
COLUMNS = {f"{n}_{s}": f"{SUFFIXES[s]}_{NAMES[n]}" for n in NAMES for s in SUFFIXES}
NUMBER = re.compile(r"^\d+(,\d+)?$")


def read_cases(path: Path) -> list[tuple[str, dict[str, Decimal]]]:
    """Patients with their measurements under harmonised names."""
    cases = []
    for row in _rows(path, [KEY, *COLUMNS]):
        values = {new: _number(row[old], f"{path.name}, patient {row[KEY]}, {old}") for old, new in COLUMNS.items()}
        cases.append((row[KEY], values))
    return cases


def read_labels(path: Path) -> list[tuple[str, bool]]:
    """Patients with True for malignant."""
    labels = []
    for row in _rows(path, [KEY, FINDING]):
        if row[FINDING] not in FINDINGS:
            raise DataError(f"{path.name}, patient {row[KEY]}: unknown finding {row[FINDING]!r}")
        labels.append((row[KEY], FINDINGS[row[FINDING]]))
    return labels


def _rows(path: Path, expected: list[str]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = list(csv.reader(stream, delimiter=";"))
    header = lines[0] if lines else []
    reasons = [f"{path.name}: column {name!r} is missing" for name in expected if name not in header]
    reasons += [f"{path.name}: column {name!r} is not expected here" for name in header if name not in expected]
    if not reasons and len(header) != len(expected):
        reasons = [f"{path.name}: a column is given twice"]
    if reasons:
        raise DataError(*reasons)
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise DataError(f"{path.name}, line {number}: {len(line)} fields instead of {len(header)}")
    return [dict(zip(header, line)) for line in lines[1:]]


def _number(text: str, where: str) -> Decimal:
    # A point would be a thousands separator in this style, so it is refused rather than guessed at.
    if not NUMBER.match(text):
        raise DataError(f"{where}: {text!r} is not a number with a decimal comma")
    return Decimal(text.replace(",", "."))
