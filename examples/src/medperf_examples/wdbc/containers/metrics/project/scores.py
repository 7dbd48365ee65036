"""The five figures of the benchmark, each from the probabilities of both classes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


def all_scores(malignant: list[float], benign: list[float], threshold: float) -> dict[str, float]:
    """Every score by its name."""
    found = sum(value >= threshold for value in malignant)
    cleared = sum(value < threshold for value in benign)
    squares = sum((1 - value) ** 2 for value in malignant) + sum(value**2 for value in benign)
    total = len(malignant) + len(benign)
    return {
        "auc": auc(malignant, benign),
        "sensitivity": found / len(malignant),
        "specificity": cleared / len(benign),
        "accuracy": (found + cleared) / total,
        "brier_score": squares / total,
    }


def auc(malignant: list[float], benign: list[float]) -> float:
    """Area under the ROC curve as the Mann-Whitney probability; a tie counts one half.

    Hanley and McNeil, Radiology 143 (1982), 29-36.
    """
    ordered = sorted(benign)
    twice = sum(bisect_left(ordered, value) + bisect_right(ordered, value) for value in malignant)
    return twice / (2 * len(malignant) * len(benign))
