"""Writes split.json, the demo set and both hospitals from the public table.

Usage: python export.py [FOLDER]     (default: the folder of the benchmark)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import source
import split
import style_json
import style_semicolon


def export(target: Path) -> None:
    """Write all raw material below `target`."""
    cases = source.read()
    parts = split.draw(cases)
    listing = ",\n".join(f" {json.dumps(name)}: {json.dumps(rows)}" for name, rows in parts.items())
    (target / "training").mkdir(parents=True, exist_ok=True)
    (target / "training" / "split.json").write_text("{\n" + listing + "\n}\n")
    of = {name: [cases[row - 1] for row in rows] for name, rows in parts.items()}
    style_semicolon.write(target / "hospitals" / "hospital_a", "A", of["hospital_a"])
    style_json.write(target / "hospitals" / "hospital_b", "B", of["hospital_b"])
    # The demo set mixes both styles so that a compatibility test exercises both readers.
    style_semicolon.write(target / "demo", "D", of["demo"][::2])
    style_json.write(target / "demo", "D", of["demo"][1::2])


if __name__ == "__main__":
    export(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent)
