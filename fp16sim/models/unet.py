"""A U-Net that finds tissue, bone and small lesions in images of heads.

Source: Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image
segmentation" (2015), with padded convolutions and group norms (Wu and He, 2018).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fp16sim import functional as F
from fp16sim import metrics, nn, optim
from fp16sim.arguments import integer
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, RandomLike, generator, namespace_of
from fp16sim.data.phantom import CLASSES, phantoms
from fp16sim.models.task import Network, Task, epochs, in_parts, predictions, tensor_for

SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 4, "depth": 1, "image": 32, "images": 24, "batch": 4, "steps": 20,
             "lr": 3e-3},
    "laptop": {
        "width": 8, "depth": 2, "image": 64, "images": 400, "batch": 8, "steps": 500, "lr": 3e-3,
    },
    "gpu": {
        "width": 64, "depth": 4, "image": 512, "images": 128, "batch": 16, "steps": 100, "lr": 1e-3,
    },
}  # fmt: skip


class DoubleConv(nn.Module):
    """Twice: a 3x3 convolution, a group norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, rng: RandomLike) -> None:
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, rng=rng)
        self.norm1 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False, rng=rng)
        self.norm2 = nn.GroupNorm(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class UNet(Network):
    """Down ``depth`` times, and up again with what was seen on the way down.

    Images (N, 1, H, W), sizes multiples of 2^depth, to class scores (N, classes, H, W). width:
    channels at full size, a multiple of 4; they double with every halving.
    """

    def __init__(
        self,
        width: int = 8,
        depth: int = 2,
        classes: int = len(CLASSES),
        *,
        rng: RandomLike = None,
    ) -> None:
        random = generator(rng)
        widths = [width * 2**level for level in range(integer("depth", depth, at_least=0) + 1)]
        inputs = [1, *widths[:-1]]
        self.down = nn.Sequential(
            *(DoubleConv(i, o, random) for i, o in zip(inputs, widths, strict=True))
        )
        self.enlarge = nn.Sequential(
            *(nn.ConvTranspose2d(2 * w, w, 2, stride=2, rng=random) for w in widths[:-1])
        )
        self.up = nn.Sequential(*(DoubleConv(2 * w, w, random) for w in widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1, rng=random)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of classes for every pixel."""
        whole = 2 ** len(self.up)
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[2] % whole or x.shape[3] % whole:
            raise ValueError(
                f"images have shape {x.shape}; allowed is (N, 1, H, W), sizes multiples of {whole}"
            )
        seen = []
        for level, (_, block) in enumerate(self.down.children()):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            seen.append(x)
        for level in reversed(range(len(self.up))):
            x = F.concatenate([seen[level], self.enlarge[level](x)], 1)
            x = self.up[level](x)
        scores: Tensor = self.head(x)
        return scores

    def loss(self, *batch: Array) -> Tensor:
        """Cross-entropy, a mean over all pixels, plus the Dice loss; images, masks (N, H, W)."""
        images, masks = batch
        scores, xp = self(tensor_for(self, images)), namespace_of(masks)
        cross_entropy = F.cross_entropy(scores, masks)  # which checks the masks
        wanted = xp.moveaxis(xp.eye(scores.shape[1], dtype=images.dtype)[masks], -1, 1)
        return cross_entropy + F.dice_loss(F.softmax(scores, 1), tensor_for(self, wanted))


def task(size: str, seed: int) -> Task:
    """Generated head phantoms; the metric is the Dice score, by class and their mean."""
    return phantoms_task(size, SETTINGS[size], seed)


def phantoms_task(size: str, settings: dict[str, Any], seed: int) -> Task:
    """The task in any size; ``settings`` as those of ``SETTINGS``."""
    train = phantoms(settings["images"], settings["image"], rng=1)
    test = phantoms(max(settings["images"] // 5, 8), settings["image"], rng=2)
    model = UNet(settings["width"], settings["depth"], rng=seed)
    of = epochs(len(train.images), settings["batch"], seed)

    def batch(step: int) -> tuple[Array, ...]:
        chosen = of(step)
        return train.images[chosen], train.masks[chosen]

    def evaluate() -> dict[str, float]:
        scores = np.concatenate(predictions(model, in_parts(test.images, settings["batch"])))
        each = metrics.dice(scores.argmax(axis=1), test.masks, len(CLASSES))
        by_class = {f"Dice {name}": float(d) for name, d in zip(CLASSES, each, strict=True)}
        return {"mean Dice": float(np.nanmean(each)), **by_class}

    optimizer = optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=0.01)
    steps = settings["steps"]
    schedule = optim.Schedule(optimizer, optim.schedules.cosine(steps, warmup=steps // 20))
    return Task("unet", size, model, optimizer, steps, batch, evaluate, schedule)
