"""The harmonised form that every hospital's data are brought to."""

from __future__ import annotations

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

ID = "patient_id"
LABEL = "malignant"
CASES_FILE = "cases.csv"
LABELS_FILE = "labels.csv"
