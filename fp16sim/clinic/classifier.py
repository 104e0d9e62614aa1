"""The small classifier of digits that several cases train, and how good it is."""

from __future__ import annotations

from itertools import pairwise

import fp16sim as fs


def perceptron(*sizes: int) -> fs.nn.Sequential:
    """Linear layers with ReLU between; the same weights for the same sizes (two or more)."""
    layers: list[fs.nn.Module] = []
    for seed, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers += [fs.nn.Linear(inputs, outputs, rng=seed), fs.nn.ReLU()]
    return fs.nn.Sequential(*layers[:-1])


def accuracy(model: fs.nn.Module, digits: fs.data.Digits) -> float:
    """The share of the test images, rows of 64 pixels, whose digit the model names."""
    with fs.no_grad(), model.evaluating():
        return fs.metrics.accuracy(model(fs.Tensor(digits.test_images)).numpy(), digits.test_labels)
