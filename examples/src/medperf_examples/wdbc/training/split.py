"""Which patient belongs to training, the demo set, hospital A or hospital B.

The split is drawn once per class, so each part has the case mix of the whole, and is stored in
`split.json` so that nobody has to trust a generator to know who was held out.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from source import Case

SEED = 20240229
SIZES = {"training": 239, "demo": 30, "hospital_a": 180, "hospital_b": 120}
STORED = Path(__file__).with_name("split.json")


def draw(cases: list[Case]) -> dict[str, list[int]]:
    """Row numbers of the source for each part; every row is in exactly one."""
    generator = random.Random(SEED)
    parts: dict[str, list[int]] = {name: [] for name in SIZES}
    total = len(cases)
    for malignant in (True, False):
        rows = [case.row for case in cases if case.malignant is malignant]
        generator.shuffle(rows)
        share = len(rows) / total
        start = 0.0
        for name, size in SIZES.items():
            end = start + size * share
            parts[name] += rows[round(start) : round(end)]
            start = end
    return {name: sorted(rows) for name, rows in parts.items()}


def load() -> dict[str, list[int]]:
    """The stored split."""
    stored: dict[str, list[int]] = json.loads(STORED.read_text())
    return stored
