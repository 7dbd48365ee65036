"""Neural network with one or more hidden layers of tanh units and a logistic output."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


class ModelError(Exception):
    """The weights cannot be used."""


class Layer:
    """Weighted sums of the inputs: `weights[unit][input]` and one bias per unit."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.weights: list[list[float]] = content["weights"]
        self.biases: list[float] = content["biases"]
        self.inputs = len(self.weights[0])
        if len(self.weights) != len(self.biases) or any(len(row) != self.inputs for row in self.weights):
            raise ModelError("a layer of the weights file has rows of different length")

    def __call__(self, values: list[float]) -> list[float]:
        return [sum((w * v for w, v in zip(row, values)), bias) for row, bias in zip(self.weights, self.biases)]


class NeuralNetwork:
    """Probability of malignancy from one patient's measurements."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.features: list[str] = weights["features"]
        self.mean: list[float] = weights["mean"]
        self.scale: list[float] = weights["scale"]
        self.layers = [Layer(content) for content in weights["layers"]]
        widths = [len(self.features), *(len(layer.biases) for layer in self.layers)]
        if [layer.inputs for layer in self.layers] != widths[:-1] or widths[-1] != 1:
            raise ModelError("the layers of the weights file do not fit together")
        if not len(self.mean) == len(self.scale) == len(self.features):
            raise ModelError("the lists in the weights file differ in length")

    def __call__(self, values: list[float]) -> float:
        signal = [(value - mean) / scale for value, mean, scale in zip(values, self.mean, self.scale)]
        for layer in self.layers[:-1]:
            signal = [math.tanh(total) for total in layer(signal)]
        return sigmoid(self.layers[-1](signal)[0])


def sigmoid(score: float) -> float:
    """Logistic function; the exponent is never positive, so it cannot overflow."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    small = math.exp(score)
    return small / (1 + small)


def load(path: Path) -> NeuralNetwork:
    """The model with the weights of a JSON file."""
    try:
        return NeuralNetwork(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{path.name} is not a weights file of this model: {error!r}") from None
