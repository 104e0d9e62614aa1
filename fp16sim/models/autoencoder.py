"""The deep autoencoder of Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with
Neural Networks", Science 313 (2006), here for 8x8 images and trained in one go (no pretraining).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from fp16sim import functional as F
from fp16sim import nn, optim
from fp16sim.arguments import one_of
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, RandomLike, generator
from fp16sim.data.digits import digits
from fp16sim.models.task import Batch, Network, Task, epochs, predictions, tensor_for
from fp16sim.nn import init

ACTIVATIONS: dict[str, type[nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


class Dense(nn.Module):
    """A linear layer with Xavier weights and zero bias, then an activation."""

    def __init__(self, inputs: int, outputs: int, activation: str, rng: RandomLike) -> None:
        self.linear = nn.Linear(inputs, outputs, rng=rng)
        self.linear.weight.data = init.xavier_uniform((outputs, inputs), rng)
        self.linear.bias = Tensor(np.zeros(outputs, np.float32), requires_grad=True)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """activation(x Wᵀ + b)."""
        y: Tensor = self.activation(self.linear(x))
        return y


class Autoencoder(Network):
    """Squeezes images through a narrow layer and draws them again.

    sizes: of the layers, from the image to the code; the decoder mirrors them. The output has
    sigmoid units, for pixels from 0 to 1; ``activation`` ("sigmoid", "tanh" or "relu") is for the
    layers before. rng: seed or generator for the weights. Input and output: (batch, sizes[0]).
    """

    def __init__(
        self,
        sizes: tuple[int, ...] = (64, 96, 48, 16),
        activation: str = "sigmoid",
        *,
        rng: RandomLike = None,
    ) -> None:
        one_of("activation", activation, ACTIVATIONS)
        if not isinstance(sizes, tuple | list) or len(sizes) < 2:
            raise ValueError(f"sizes={sizes!r} is not allowed; it must be two sizes or more")
        random = generator(rng)
        down = list(pairwise(sizes))
        up = [(outputs, inputs) for inputs, outputs in reversed(down)]
        kinds = [activation] * (len(up) - 1) + ["sigmoid"]
        self.encoder = nn.Sequential(*(Dense(i, o, activation, random) for i, o in down))
        self.decoder = nn.Sequential(
            *(Dense(i, o, kind, random) for (i, o), kind in zip(up, kinds, strict=True))
        )

    def forward(self, images: Tensor) -> Tensor:
        """(batch, pixels) to (batch, pixels)."""
        reconstruction: Tensor = self.decoder(self.encoder(images))
        return reconstruction

    def loss(self, *batch: Array) -> Tensor:
        """Mean squared error of images (N, pixels) drawn again."""
        images = tensor_for(self, batch[0])
        return F.mse_loss(self(images), images)


SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {"sizes": (64, 16, 4), "batch": 64, "steps": 50, "lr": 1e-2},
    "laptop": {"sizes": (64, 96, 48, 16), "batch": 512, "steps": 600, "lr": 3e-3},
    "gpu": {"sizes": (64, 8192, 4096, 2048), "batch": 1024, "steps": 100, "lr": 1e-4},
}


def task(size: str, seed: int) -> Task:
    """Digits to be drawn again; the metric is the mean squared error of a pixel, in test images."""
    settings, data = SETTINGS[size], digits()
    model = Autoencoder(settings["sizes"], rng=seed)
    of = epochs(len(data.train_images), settings["batch"], seed)

    def evaluate() -> dict[str, float]:
        (drawn,) = predictions(model, [data.test_images])
        return {"error": float(np.mean((drawn - data.test_images) ** 2))}

    optimizer = optim.Adam(model.parameters(), lr=settings["lr"])

    def batch(step: int) -> Batch:
        return (data.train_images[of(step)],)

    return Task("autoencoder", size, model, optimizer, settings["steps"], batch, evaluate)
