"""The public table as shipped inside scikit-learn, as exact decimals and without renumbering."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import sklearn

FEATURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
)
STATISTICS = ("mean", "se", "worst")
COLUMNS = tuple(f"{statistic}_{feature}" for statistic in STATISTICS for feature in FEATURES)


class Case(NamedTuple):
    """One patient: the row number in the source (from 1), the measurements and the diagnosis."""

    row: int
    values: dict[str, Decimal]
    malignant: bool


def read() -> list[Case]:
    """All 569 patients in the order of the source."""
    path = Path(str(sklearn.__file__)).parent / "datasets" / "data" / "breast_cancer.csv"
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    # scikit-learn codes malignant as 0.
    return [
        Case(number, dict(zip(COLUMNS, map(Decimal, row[:-1]))), row[-1] == "0")
        for number, row in enumerate(rows, start=1)
    ]
