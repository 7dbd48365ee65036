"""Defaults of parameters.yaml; a range is what the source's unit makes plausible, with room on both sides."""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, Any] = {
    "minimum_cases": 10,
    "suppress_counts_below": 5,
    "range_radius": [1, 60],
    "range_texture": [1, 80],
    "range_perimeter": [5, 400],
    "range_area": [10, 8000],
    "range_smoothness": [0.01, 0.5],
    "range_compactness": [0, 2],
    "range_concavity": [0, 2.5],
    "range_concave_points": [0, 0.6],
    "range_symmetry": [0.02, 1.2],
    "range_fractal_dimension": [0.01, 0.5],
}
