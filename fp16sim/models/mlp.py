"""A plain classifier of digits: linear layers and ReLU. In fp16 it needs no rescue."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from fp16sim import functional as F
from fp16sim import metrics, nn, optim
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, RandomLike, generator
from fp16sim.data.digits import digits
from fp16sim.models.task import Network, Task, epochs, predictions, tensor_for

SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {"sizes": (64, 32, 10), "batch": 32, "steps": 60, "lr": 1e-2},
    "laptop": {"sizes": (64, 256, 128, 10), "batch": 64, "steps": 1000, "lr": 1e-3},
    "gpu": {"sizes": (64, 8192, 8192, 8192, 10), "batch": 1024, "steps": 200, "lr": 1e-4},
}


class MLP(Network):
    """Linear layers with ReLU between. Input (N, sizes[0]), output logits (N, sizes[-1])."""

    def __init__(
        self, sizes: tuple[int, ...] = (64, 256, 128, 10), *, rng: RandomLike = None
    ) -> None:
        if not isinstance(sizes, tuple | list) or len(sizes) < 2:
            raise ValueError(f"sizes={sizes!r} is not allowed; it must be two sizes or more")
        random = generator(rng)
        layers = [nn.Linear(inputs, outputs, rng=random) for inputs, outputs in pairwise(sizes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for name, layer in self.layers.children():
            x = layer(x) if name == "0" else layer(F.relu(x))
        return x

    def loss(self, *batch: Array) -> Tensor:
        """Cross-entropy of images (N, pixels) and labels (N,)."""
        images, labels = batch
        return F.cross_entropy(self(tensor_for(self, images)), labels)


def task(size: str, seed: int) -> Task:
    """Digits of 8x8 pixels, as rows of 64 numbers; the metric is accuracy."""
    settings = SETTINGS[size]
    model = MLP(settings["sizes"], rng=seed)
    return digits_task("mlp", size, model, settings, seed, lambda images: images)


def digits_task(
    name: str, size: str, model: Network, settings: dict[str, Any], seed: int, shape: Any
) -> Task:
    """A classifier of the digits; ``shape`` brings images (N, 64) into the network's shape."""
    data = digits()
    of = epochs(len(data.train_images), settings["batch"], seed)

    def batch(step: int) -> tuple[Array, ...]:
        chosen = of(step)
        return shape(data.train_images[chosen]), data.train_labels[chosen]

    def evaluate() -> dict[str, float]:
        logits = predictions(model, [shape(data.test_images)])
        return {"accuracy": metrics.accuracy(np.concatenate(logits), data.test_labels)}

    optimizer = optim.Adam(model.parameters(), lr=settings["lr"])
    return Task(name, size, model, optimizer, settings["steps"], batch, evaluate)
