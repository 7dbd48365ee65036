"""Weights and raw data are what the scripts make of the public table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medperf_examples import wdbc

SCRIPTS = wdbc.root() / "training"


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [] if isinstance(value, str) else [float(value)]


def run_script(name: str, target: Path) -> None:
    subprocess.run([sys.executable, "-B", str(SCRIPTS / name), str(target)], check=True)


def test_every_row_of_the_source_is_in_exactly_one_part() -> None:
    parts = json.loads((SCRIPTS / "split.json").read_text())
    rows = [row for part in parts.values() for row in part]
    assert sorted(rows) == list(range(1, 570))
    assert {name: len(part) for name, part in parts.items()} == {
        "training": 239,
        "demo": 30,
        "hospital_a": 180,
        "hospital_b": 120,
    }


@pytest.mark.parametrize("part", ["demo", "hospital_a", "hospital_b"])
def test_parts_hold_the_patients_of_the_split(chain: Path, part: str) -> None:
    lines = (chain / part / "labels" / "labels.csv").read_text().splitlines()[1:]
    rows = [int(line.partition(",")[0][2:]) for line in lines]
    assert sorted(rows) == json.loads((SCRIPTS / "split.json").read_text())[part]


def test_weights_are_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    run_script("train.py", tmp_path)
    for model in ("model_logreg", "model_mlp"):
        kept = json.loads((wdbc.containers()[model] / "mlcube/workspace/additional_files/weights.json").read_text())
        made = json.loads((tmp_path / f"{model}.json").read_text())
        assert made["features"] == kept["features"]
        assert numbers(made) == pytest.approx(numbers(kept), abs=1e-3)


def test_raw_data_are_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    run_script("export.py", tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(made) > 130
    for name, content in made.items():
        assert (wdbc.root() / name).read_bytes() == content, name
