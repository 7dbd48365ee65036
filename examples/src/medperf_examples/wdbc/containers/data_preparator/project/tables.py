"""Reading and writing the two harmonised tables."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from problems import DataError
from schema import CASES_FILE, COLUMNS, ID, LABEL, LABELS_FILE


def write_cases(folder: Path, cases: dict[str, dict[str, Decimal]]) -> None:
    """Write `cases.csv`, patients in the order of their ids."""
    rows = [[name, *(f"{cases[name][column]:f}" for column in COLUMNS)] for name in sorted(cases)]
    _write(folder / CASES_FILE, [ID, *COLUMNS], rows)


def write_labels(folder: Path, labels: dict[str, bool]) -> None:
    """Write `labels.csv`, patients in the order of their ids."""
    _write(folder / LABELS_FILE, [ID, LABEL], [[name, str(int(labels[name]))] for name in sorted(labels)])


def read_cases(folder: Path) -> dict[str, dict[str, float]]:
    """The measurements of each patient."""
    cases = {}
    reasons = []
    for name, fields in _read(folder, CASES_FILE, [ID, *COLUMNS]).items():
        values = {}
        for column, text in zip(COLUMNS, fields):
            try:
                values[column] = float(text)
            except ValueError:
                values[column] = math.nan
            if not math.isfinite(values[column]):
                reasons.append(f"{CASES_FILE}, patient {name}: {column} is {text!r}, not a finite number")
        cases[name] = values
    if reasons:
        raise DataError(*reasons)
    return cases


def read_labels(folder: Path) -> dict[str, bool]:
    """True for each malignant patient."""
    rows = _read(folder, LABELS_FILE, [ID, LABEL])
    wrong = {name: fields[0] for name, fields in rows.items() if fields[0] not in ("0", "1")}
    reasons = [f"{LABELS_FILE}, patient {name}: label {text!r} is not 0 or 1" for name, text in wrong.items()]
    if reasons:
        raise DataError(*reasons)
    return {name: fields[0] == "1" for name, fields in rows.items()}


def _read(folder: Path, name: str, columns: Sequence[str]) -> dict[str, list[str]]:
    if not (folder / name).is_file():
        raise DataError(f"{folder} holds no {name}")
    with (folder / name).open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream))
    header = lines[0] if lines else []
    reasons = [f"{name}: column {column!r} is missing" for column in columns if column not in header]
    extra = [column for column in header if column not in columns]
    reasons += [f"{name}: column {column!r} is not part of the schema; could it leak the label?" for column in extra]
    if not reasons and header != list(columns):
        reasons = [f"{name}: the columns are not in the order of the schema"]
    if reasons:
        raise DataError(*reasons)
    rows: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header) or not line[0]:
            raise DataError(f"{name}, line {number}: expected {len(header)} fields beginning with an id")
        if line[0] in rows:
            raise DataError(f"{name}: patient {line[0]} occurs twice")
        rows[line[0]] = line[1:]
    return rows


def _write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
