"""Task `sanity_check`: would a careful reader accept the prepared data?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tables
from problems import DataError
from schema import CASES_FILE, FEATURES, LABELS_FILE


def run(data_path: Path, labels_path: Path, settings: dict[str, Any]) -> None:
    """Raise DataError with every reason found; silence means sound."""
    reasons = _strangers(data_path, CASES_FILE) + _strangers(labels_path, LABELS_FILE)
    if reasons:
        raise DataError(*reasons)
    cases, labels = tables.read_cases(data_path), tables.read_labels(labels_path)
    reasons += [f"patient {name} has no label" for name in sorted(cases.keys() - labels.keys())]
    reasons += [f"label of unknown patient {name}" for name in sorted(labels.keys() - cases.keys())]
    if len(cases) < settings["minimum_cases"]:
        reasons.append(f"{len(cases)} patients are fewer than the minimum of {settings['minimum_cases']}")
    if len(set(labels.values())) < 2:
        reasons.append("all patients have the same label")
    for name, values in cases.items():
        reasons += _implausible(name, values, settings)
    if reasons:
        raise DataError(*reasons)
    print(f"{len(cases)} patients are sound")


def _strangers(folder: Path, expected: str) -> list[str]:
    if not folder.is_dir():
        return [f"{folder} is not a folder"]
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return [f"{n}: only {expected} belongs here; could it leak the label?" for n in names if n != expected]


def _implausible(name: str, values: dict[str, float], settings: dict[str, Any]) -> list[str]:
    reasons = []
    for feature in FEATURES:
        low, high = settings[f"range_{feature}"]
        for statistic in ("mean", "worst"):
            value = values[f"{statistic}_{feature}"]
            if not low <= value <= high:
                reasons.append(f"patient {name}: {statistic}_{feature} is {value:g}, outside {low:g} to {high:g}")
        error = values[f"se_{feature}"]
        if not 0 <= error <= high:
            reasons.append(f"patient {name}: se_{feature} is {error:g}, outside 0 to {high:g}")
        # The worst is the mean of the three largest nuclei, so a smaller one means mixed-up columns.
        if values[f"worst_{feature}"] < values[f"mean_{feature}"]:
            reasons.append(f"patient {name}: worst_{feature} is below mean_{feature}")
    return reasons
