"""The evaluator's arithmetic against slow and obvious forms of it."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from medperf_examples import wdbc


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(wdbc.containers()["metrics"] / "project"))
    yield importlib.import_module("bootstrap")
    for name in ("bootstrap", "scores"):
        sys.modules.pop(name, None)


def test_auc_counts_pairs(evaluator: Any) -> None:
    generator = random.Random(1)
    # One decimal makes many ties.
    malignant = [round(generator.uniform(0.2, 1), 1) for _ in range(40)]
    benign = [round(generator.uniform(0, 0.8), 1) for _ in range(60)]
    pairs = [1.0 if m > b else 0.5 if m == b else 0.0 for m in malignant for b in benign]
    found = evaluator.all_scores(malignant, benign, 0.5)
    assert found["auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_known_scores(evaluator: Any) -> None:
    assert evaluator.all_scores([0.5, 0.4], [0.1, 0.2, 0.7], 0.5) == pytest.approx(
        {
            "auc": 4 / 6,
            "sensitivity": 1 / 2,
            "specificity": 2 / 3,
            "accuracy": 3 / 5,
            "brier_score": (0.25 + 0.36 + 0.01 + 0.04 + 0.49) / 5,
        }
    )


def test_percentile_interpolates(evaluator: Any) -> None:
    assert evaluator.percentile([4.0, 1.0, 2.0, 3.0], 50) == 2.5
    assert evaluator.percentile([0.0, 10.0], 2.5) == 0.25
    assert evaluator.percentile([7.0], 97.5) == 7.0


def test_interval_of_a_proportion_is_near_the_textbook_one(evaluator: Any) -> None:
    malignant = [0.9] * 80 + [0.1] * 20
    found = evaluator.estimate(malignant, [0.1] * 10, 0.5, 4000, 3)["sensitivity"]
    # Normal approximation of a proportion of 0.8 among 100.
    assert found.low == pytest.approx(0.8 - 1.96 * 0.04, abs=0.015)
    assert found.high == pytest.approx(0.8 + 1.96 * 0.04, abs=0.015)


def test_the_seed_rules(evaluator: Any) -> None:
    data = [0.9, 0.8, 0.4, 0.35], [0.1, 0.5, 0.36, 0.2, 0.3]
    assert evaluator.estimate(*data, 0.5, 50, 1) == evaluator.estimate(*data, 0.5, 50, 1)
    assert evaluator.estimate(*data, 0.5, 50, 1) != evaluator.estimate(*data, 0.5, 50, 2)
