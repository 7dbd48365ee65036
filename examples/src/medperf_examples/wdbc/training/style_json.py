"""Hospital B's export: one JSON file per patient, ratios in percent."""

from __future__ import annotations

import json
from pathlib import Path

from source import FEATURES, STATISTICS, Case

LENGTHS = ("radius", "texture", "perimeter", "area")
KEYS = {"mean": "average", "se": "standard_error", "worst": "largest"}


def write(folder: Path, prefix: str, cases: list[Case]) -> None:
    """Write `raw/SUBJECT.json` and `labels/outcomes.json` below `folder`."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    outcomes = []
    for case in cases:
        subject = f"{prefix}-{case.row:04d}"
        record = {"subject": subject, "nuclei": {_name(f): _values(case, f) for f in FEATURES}}
        (folder / "raw" / f"{subject}.json").write_text(json.dumps(record, indent=1) + "\n")
        outcomes.append({"subject": subject, "diagnosis": "malignant" if case.malignant else "benign"})
    body = ",\n".join(json.dumps(outcome) for outcome in outcomes)
    (folder / "labels" / "outcomes.json").write_text(f"[\n{body}\n]\n")


def _name(feature: str) -> str:
    return feature if feature in LENGTHS else f"{feature}_percent"


def _values(case: Case, feature: str) -> dict[str, float]:
    shift = 0 if feature in LENGTHS else 2
    return {KEYS[s]: float(case.values[f"{s}_{feature}"].scaleb(shift)) for s in STATISTICS}
