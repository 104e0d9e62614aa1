"""A small convolutional classifier of digits, with batch normalisation."""

from __future__ import annotations

from typing import Any

from fp16sim import functional as F
from fp16sim import nn
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, RandomLike, generator
from fp16sim.models.mlp import digits_task
from fp16sim.models.task import Network, Task, tensor_for

SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {"widths": (4, 8), "batch": 32, "steps": 40, "lr": 1e-2},
    "laptop": {"widths": (32, 64), "batch": 64, "steps": 600, "lr": 2e-3},
    "gpu": {"widths": (512, 1024), "batch": 1024, "steps": 100, "lr": 1e-3},
}


class ConvNet(Network):
    """Two convolutions with batch norm and ReLU, a pool, and a linear layer.

    Input (N, 1, 8, 8), output logits (N, 10). Norms come between convolution and ReLU, as in
    Ioffe and Szegedy (2015); convolutions have no bias, which the norm would remove.
    """

    def __init__(self, widths: tuple[int, int] = (32, 64), *, rng: RandomLike = None) -> None:
        if not isinstance(widths, tuple | list) or len(widths) != 2:
            raise ValueError(f"widths={widths!r} is not allowed; it must be two widths")
        random = generator(rng)
        first, second = widths
        self.conv1 = nn.Conv2d(1, first, 3, padding=1, bias=False, rng=random)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False, rng=random)
        self.norm2 = nn.BatchNorm2d(second)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(second * 16, 10, rng=random)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits

    def loss(self, *batch: Array) -> Tensor:
        """Cross-entropy of images (N, 1, 8, 8) and labels (N,)."""
        images, labels = batch
        return F.cross_entropy(self(tensor_for(self, images)), labels)


def task(size: str, seed: int) -> Task:
    """Digits of 8x8 pixels; the metric is accuracy."""
    settings = SETTINGS[size]
    model = ConvNet(settings["widths"], rng=seed)
    return digits_task("cnn", size, model, settings, seed, lambda x: x.reshape(-1, 1, 8, 8))
