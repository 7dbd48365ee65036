"""Confidence intervals by the stratified percentile bootstrap.

Malignant and benign patients are drawn separately, so every replicate keeps the class sizes of
the sample, and the 2.5th and 97.5th percentiles of the replicates bound the interval: Efron and
Tibshirani, An Introduction to the Bootstrap, Chapman & Hall 1993, chapter 13; for ROC areas see
Carpenter and Bithell, Statistics in Medicine 19 (2000), 1141-1164.

The method cannot see errors that the sample does not contain: where a score is perfect, the
interval has no width, however few patients there were.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from scores import all_scores


class Estimate(NamedTuple):
    """A score and the bounds of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def estimate(
    malignant: list[float], benign: list[float], threshold: float, replicates: int, seed: int
) -> dict[str, Estimate]:
    """Each score with its interval; the same input and seed always give the same numbers."""
    generator = random.Random(seed)
    values = all_scores(malignant, benign, threshold)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(replicates):
        sample = all_scores(
            generator.choices(malignant, k=len(malignant)), generator.choices(benign, k=len(benign)), threshold
        )
        for name, value in sample.items():
            drawn[name].append(value)
    return {
        name: Estimate(value, percentile(drawn[name], 2.5), percentile(drawn[name], 97.5))
        for name, value in values.items()
    }


def percentile(values: list[float], percent: float) -> float:
    """Linear interpolation between the two nearest order statistics."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
