"""Trains both models on the training patients and writes their weights.

Usage: python train.py [FOLDER]     (default: the workspaces of the two model containers)

FOLDER gets `model_logreg.json` and `model_mlp.json`. Weights are rounded, so that another linear
algebra library gives the same models.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy
import source
import split
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

DIGITS = 6
EPOCHS = 200
CONTAINERS = Path(__file__).parent.parent / "containers"


def train() -> dict[str, dict[str, Any]]:
    """Weights of each model by its container's name."""
    chosen = set(split.load()["training"])
    cases = [case for case in source.read() if case.row in chosen]
    raw = numpy.array([[float(case.values[column]) for column in source.COLUMNS] for case in cases])
    malignant = numpy.array([case.malignant for case in cases])
    mean, scale = raw.mean(axis=0).round(DIGITS), raw.std(axis=0).round(DIGITS)
    inputs = (raw - mean) / scale
    common = {"features": list(source.COLUMNS), "mean": mean.tolist(), "scale": scale.tolist()}

    line = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(inputs, malignant)
    # A few epochs of Adam: the fully converged minimum has eight copies of one hidden unit.
    network = MLPClassifier(
        (8,), activation="tanh", solver="adam", learning_rate_init=0.01, alpha=0.1, max_iter=EPOCHS, random_state=7
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(inputs, malignant)
    return {
        "model_logreg": {**common, "coefficients": _rounded(line.coef_[0]), "intercept": _rounded(line.intercept_)[0]},
        "model_mlp": {
            **common,
            "layers": [
                {"weights": _rounded(matrix.T), "biases": _rounded(bias)}
                for matrix, bias in zip(network.coefs_, network.intercepts_)
            ],
        },
    }


def _rounded(values: Any) -> Any:
    # Adding zero turns -0.0 into 0.0.
    return (numpy.asarray(values).round(DIGITS) + 0.0).tolist()


def main() -> None:
    """Write the weights of both models."""
    for name, weights in train().items():
        if len(sys.argv) > 1:
            path = Path(sys.argv[1]) / f"{name}.json"
        else:
            path = CONTAINERS / name / "mlcube" / "workspace" / "additional_files" / "weights.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = ",\n".join(f' "{key}": {json.dumps(value)}' for key, value in weights.items())
        path.write_text("{\n" + body + "\n}\n")


if __name__ == "__main__":
    main()
