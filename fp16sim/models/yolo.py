"""A single-shot detector in the manner of YOLO: a grid of cells, each of which may see one object.

Source: Redmon et al., "You only look once" (2016): one network, a loss over all cells, most of
which are empty; offsets through a sigmoid and sizes through exp as in YOLO9000 (2017), eq. for
b_x to b_h, but with a single box a cell; presence and classes by cross-entropy as in YOLOv3 (2018).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fp16sim import functional as F
from fp16sim import metrics, nn, optim
from fp16sim.autograd import Tensor
from fp16sim.backend import Array, RandomLike, generator, namespace_of
from fp16sim.data.road import CLASSES, Scenes, scenes
from fp16sim.models.task import Network, Task, epochs, in_parts, predictions, tensor_for

#: pixels along the side of a cell, and sizes of boxes are in these, too
CELL = 8

SETTINGS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 4, "image": 32, "scenes": 32, "batch": 8, "steps": 20, "lr": 2e-3},
    "laptop": {"width": 16, "image": 64, "scenes": 1200, "batch": 16, "steps": 450, "lr": 3e-3},
    "gpu": {"width": 64, "image": 512, "scenes": 512, "batch": 64, "steps": 100, "lr": 1e-3},
}


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, rng: RandomLike) -> None:
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False, rng=rng)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return F.relu(self.norm(self.conv(x)))


class Detector(Network):
    """Images (N, 3, H, W), sizes multiples of 8, to (N, 5 + classes, H / 8, W / 8).

    Of every cell: how present an object is, its centre's offset in the cell (x, y), the logarithm
    of its size over the cell's (w, h), and scores of classes; all before sigmoid, exp and softmax.
    """

    def __init__(
        self, width: int = 16, classes: int = len(CLASSES), *, rng: RandomLike = None
    ) -> None:
        random = generator(rng)
        sizes = [(3, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        sizes += [(4 * width, 4 * width, 1), (4 * width, 8 * width, 2), (8 * width, 8 * width, 1)]
        self.backbone = nn.Sequential(*(ConvNormReLU(*size, random) for size in sizes))
        self.head = nn.Conv2d(8 * width, 5 + classes, 1, rng=random)

    def forward(self, x: Tensor) -> Tensor:
        """What every cell says."""
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % CELL or x.shape[3] % CELL:
            raise ValueError(
                f"images have shape {x.shape}; allowed is (N, 3, H, W), sizes multiples of {CELL}"
            )
        y: Tensor = self.head(self.backbone(x))
        return y

    def loss(self, *batch: Array) -> Tensor:
        """Presence + 2 box + class, each a sum over cells divided by the number of all cells.

        batch: images, and the ``targets`` of their cells (N, 5 + 1, rows, columns): whether an
        object is there, its box as ``forward`` has it (offsets from 0 to 1), its class.
        """
        images, targets = batch
        said, there = self(tensor_for(self, images)), tensor_for(self, targets[:, :1])
        cells = there.size
        presence = F.binary_cross_entropy_with_logits(said[:, :1], there)
        centre = F.sigmoid(said[:, 1:3])
        box = F.concatenate([centre, said[:, 3:5]], 1) * there
        wanted = tensor_for(self, targets[:, 1:5] * targets[:, :1])
        boxes = F.mse_loss(box, wanted, reduction="sum") / cells
        labels = namespace_of(targets).where(targets[:, 0] > 0, targets[:, 5], -1).astype(np.int64)
        classes = F.cross_entropy(said[:, 5:], labels, ignore_index=-1, reduction="sum") / cells
        return presence + 2.0 * boxes + classes


def targets(data: Scenes) -> Array:
    """(n, 6, rows, columns) float32 as ``Detector.loss`` takes them; the last object wins."""
    count, _, height, width = data.images.shape
    cells = np.zeros((count, 6, height // CELL, width // CELL), np.float32)
    for image, (boxes, labels) in enumerate(zip(data.boxes, data.labels, strict=True)):
        places = boxes[:, :2] / CELL
        corner = np.minimum(places.astype(int), np.array(cells.shape[:1:-1]) - 1)
        for (column, row), place, size, label in zip(
            corner, places, boxes[:, 2:], labels, strict=True
        ):
            offset = place - (column, row)
            cells[image, :, row, column] = (1, *offset, *np.log(size / CELL), label)
    return cells


def detections(said: Array, threshold: float = 0.05) -> list[tuple[Array, Array, Array]]:
    """What a detector said (N, 5 + classes, rows, columns) as boxes, scores and labels of images.

    A box's score is the probability of presence times that of its class; those below the
    threshold go, then those that overlap better ones of their class with an IoU above 0.5.
    """
    with np.errstate(all="ignore"):  # what has overflowed is judged, too
        presence = 1 / (1 + np.exp(-said[:, 0]))
        centre = 1 / (1 + np.exp(-said[:, 1:3]))
        powers = np.exp(said[:, 5:] - said[:, 5:].max(axis=1, keepdims=True))
        chances = powers / powers.sum(axis=1, keepdims=True)
    rows, columns = np.indices(presence.shape[1:])
    x, y = (columns + centre[:, 0]) * CELL, (rows + centre[:, 1]) * CELL
    sizes = np.exp(np.clip(said[:, 3:5], -10, 10)) * CELL
    boxes = np.stack([x, y, sizes[:, 0], sizes[:, 1]], -1).reshape(len(said), -1, 4)
    labels = chances.argmax(axis=1).reshape(len(said), -1)
    scores = (presence * chances.max(axis=1)).reshape(len(said), -1)
    return [_best(*image, threshold) for image in zip(boxes, scores, labels, strict=True)]


def _best(
    boxes: Array, scores: Array, labels: Array, threshold: float
) -> tuple[Array, Array, Array]:
    likely = scores >= threshold
    boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
    kept = []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        kept.append(mine[metrics.non_maximum_suppression(boxes[mine], scores[mine], 0.5)])
    chosen = np.concatenate(kept) if kept else np.zeros(0, int)
    return boxes[chosen], scores[chosen], labels[chosen]


def task(size: str, seed: int) -> Task:
    """Generated driving scenes; the metric is mean average precision at an IoU of 0.5."""
    settings = SETTINGS[size]
    train = scenes(settings["scenes"], settings["image"], rng=1)
    test = scenes(max(settings["scenes"] // 6, 8), settings["image"], rng=2)
    cells = targets(train)
    model = Detector(settings["width"], rng=seed)
    of = epochs(len(cells), settings["batch"], seed)

    def batch(step: int) -> tuple[Array, ...]:
        chosen = of(step)
        return train.images[chosen], cells[chosen]

    def evaluate() -> dict[str, float]:
        said = np.concatenate(predictions(model, in_parts(test.images, settings["batch"])))
        objects = list(zip(test.boxes, test.labels, strict=True))
        found = metrics.mean_average_precision(detections(said), objects, len(CLASSES))
        each = {f"AP {name}": float(p) for name, p in zip(CLASSES, found["per_class"], strict=True)}
        return {"mAP": found["mean"], **each}

    optimizer = optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=0.01)
    steps = settings["steps"]
    schedule = optim.Schedule(optimizer, optim.schedules.cosine(steps, warmup=steps // 20))
    return Task("yolo", size, model, optimizer, steps, batch, evaluate, schedule)
