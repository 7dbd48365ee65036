"""The whole benchmark from raw exports to results."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_examples import wdbc

SIZES = {"demo": (30, 11), "hospital_a": (180, 67), "hospital_b": (120, 45)}
MODELS = ("model_logreg", "model_mlp")
SCORES = ("auc", "sensitivity", "specificity", "accuracy", "brier_score")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def scores(path: Path) -> dict[str, tuple[float, float, float]]:
    found = re.findall(r"^(\w+):\n  value: (\S+)\n  ci95: \[(\S+), (\S+)\]$", path.read_text(), re.MULTILINE)
    return {name: (float(value), float(low), float(high)) for name, value, low, high in found}


@pytest.mark.parametrize("part", SIZES)
def test_every_patient_is_harmonised(chain: Path, part: str) -> None:
    cases, labels = rows(chain / part / "data" / "cases.csv"), rows(chain / part / "labels" / "labels.csv")
    total, malignant = SIZES[part]
    assert len(cases) == total
    assert [case["patient_id"] for case in cases] == [label["patient_id"] for label in labels]
    assert sum(label["malignant"] == "1" for label in labels) == malignant


def test_both_styles_come_to_the_same_units(chain: Path) -> None:
    def mean(part: str, column: str) -> float:
        values = [float(case[column]) for case in rows(chain / part / "data" / "cases.csv")]
        return sum(values) / len(values)

    for column in rows(chain / "demo" / "data" / "cases.csv")[0]:
        if column != "patient_id":
            assert mean("hospital_a", column) == pytest.approx(mean("hospital_b", column), rel=0.2)


def test_no_patient_is_in_two_datasets(chain: Path) -> None:
    seen = [tuple(list(case.values())[1:]) for part in SIZES for case in rows(chain / part / "data" / "cases.csv")]
    as_numbers = {tuple(map(float, values)) for values in seen}
    assert len(as_numbers) == len(seen) == 330


@pytest.mark.parametrize("part", SIZES)
def test_statistics_hold_counts_but_no_patient(chain: Path, part: str) -> None:
    text = (chain / part / "statistics.yaml").read_text()
    total, malignant = SIZES[part]
    assert text.startswith(f"cases: {total}\nclasses:\n  malignant: {malignant}\n  benign: {total - malignant}\n")
    assert len(re.findall(r"^  \w+: \{mean: \S+, sd: \S+, min: \S+, max: \S+\}$", text, re.MULTILINE)) == 30
    assert not any(case["patient_id"] in text for case in rows(chain / part / "data" / "cases.csv"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("part", SIZES)
def test_results_are_complete_and_intervals_hold_the_value(chain: Path, part: str, model: str) -> None:
    path = chain / part / f"{model}.yaml"
    assert path.read_text().startswith(f"cases: {SIZES[part][0]}\n")
    found = scores(path)
    assert tuple(found) == SCORES
    assert all(0 <= low <= value <= high <= 1 for value, low, high in found.values())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("part", ["hospital_a", "hospital_b"])
def test_models_work_at_the_hospitals(chain: Path, part: str, model: str) -> None:
    found = scores(chain / part / f"{model}.yaml")
    assert found["auc"][0] > 0.95
    assert found["brier_score"][0] < 0.05


def test_models_are_two_and_not_one(chain: Path) -> None:
    first, second = ((chain / "hospital_a" / model / "predictions.csv").read_text() for model in MODELS)
    assert first != second


def test_results_are_the_same_on_a_second_run(chain: Path, run: Callable[..., object], tmp_path: Path) -> None:
    source = chain / "hospital_b"
    run(
        "metrics",
        "evaluate",
        predictions=source / "model_mlp",
        labels=source / "labels",
        output_path=tmp_path / "again.yaml",
    )
    assert (tmp_path / "again.yaml").read_bytes() == (source / "model_mlp.yaml").read_bytes()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("part", SIZES)
def test_the_model_card_tells_these_figures(chain: Path, part: str, model: str) -> None:
    card = (wdbc.root() / "training" / "MODEL_CARD.md").read_text()
    found = scores(chain / part / f"{model}.yaml")
    value, low, high = (f"{figure:.3f}" for figure in found["auc"])
    others = " | ".join(f"{found[name][0]:.3f}" for name in ("sensitivity", "specificity", "brier_score"))
    total, malignant = SIZES[part]
    assert f"| {model} | {part} | {total} | {malignant} | {value} | {low} to {high} | {others} |" in card
