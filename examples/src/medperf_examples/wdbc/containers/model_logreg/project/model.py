"""Logistic regression on standardised measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class ModelError(Exception):
    """The weights cannot be used."""


class LogisticRegression:
    """Probability of malignancy from one patient's measurements."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.features: list[str] = weights["features"]
        self.mean: list[float] = weights["mean"]
        self.scale: list[float] = weights["scale"]
        self.coefficients: list[float] = weights["coefficients"]
        self.intercept: float = weights["intercept"]
        if not len(self.features) == len(self.mean) == len(self.scale) == len(self.coefficients):
            raise ModelError("the lists in the weights file differ in length")

    def __call__(self, values: list[float]) -> float:
        score = self.intercept
        for value, mean, scale, coefficient in zip(values, self.mean, self.scale, self.coefficients):
            score += coefficient * (value - mean) / scale
        return sigmoid(score)


def sigmoid(score: float) -> float:
    """Logistic function; the exponent is never positive, so it cannot overflow."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    small = math.exp(score)
    return small / (1 + small)


def load(path: Path) -> LogisticRegression:
    """The model with the weights of a JSON file."""
    try:
        return LogisticRegression(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path.name} is not a weights file of this model: {error!r}") from None
