"""Hospital A's export: one table, semicolons, decimal commas, abbreviated German names."""

from __future__ import annotations

from pathlib import Path

from source import FEATURES, STATISTICS, Case

NAMES = dict(
    zip(
        FEATURES,
        ("Radius", "Textur", "Umfang", "Flaeche", "Glatth", "Kompakt", "Konkav", "KonkPkt", "Symm", "FraktDim"),
    )
)
SUFFIXES = {"mean": "MW", "se": "SF", "worst": "Max"}


def write(folder: Path, prefix: str, cases: list[Case]) -> None:
    """Write `raw/zellkerne.csv` and `labels/befunde.csv` below `folder`."""
    header = [f"{NAMES[feature]}_{SUFFIXES[statistic]}" for feature in FEATURES for statistic in STATISTICS]
    lines = [";".join(["PatNr", *header])]
    findings = ["PatNr;Befund"]
    for case in cases:
        number = f"{prefix}-{case.row:04d}"
        values = [f"{case.values[f'{s}_{f}']:f}".replace(".", ",") for f in FEATURES for s in STATISTICS]
        lines.append(";".join([number, *values]))
        findings.append(f"{number};{'boesartig' if case.malignant else 'gutartig'}")
    for name, content in (("raw/zellkerne.csv", lines), ("labels/befunde.csv", findings)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(content) + "\n")
