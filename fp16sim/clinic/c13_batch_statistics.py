"""Case 13: a step is skipped, and batch norm's running statistics are NaN all the same."""

from __future__ import annotations

import numpy as np

import fp16sim as fs
from fp16sim.clinic.case import Case

F = fs.functional


def broken() -> str:
    """Images as a camera gave them, one with a hot pixel."""
    images, labels = _pictures()
    model = fs.models.ConvNet((8, 16), rng=0)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler, skipped = fs.GradScaler(), 0
    for batch in fs.data.batches(len(images), 32, steps=30, rng=0):
        x = fs.Tensor(images[batch])
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            loss = F.cross_entropy(model(x), labels[batch])
        scaler.scale(loss).backward()
        skipped += not scaler.step(optimizer)
        scaler.update()
    return f"{skipped} of 30 steps skipped; {_accuracy(model)}"


def mended() -> str:
    """With pixels limited to what they should be."""
    images, labels = _pictures()
    model = fs.models.ConvNet((8, 16), rng=0)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler, skipped = fs.GradScaler(), 0
    for batch in fs.data.batches(len(images), 32, steps=30, rng=0):
        x = fs.Tensor(images[batch].clip(0, 1))
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            loss = F.cross_entropy(model(x), labels[batch])
        scaler.scale(loss).backward()
        skipped += not scaler.step(optimizer)
        scaler.update()
    return f"{skipped} of 30 steps skipped; {_accuracy(model)}"


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    """640 digits (640, 1, 8, 8) and their labels; one pixel of one has the 65535 of 16 bits."""
    digits = fs.data.digits()
    images = digits.train_images[:640].reshape(-1, 1, 8, 8).copy()
    images[100, 0, 3, 3] = 65535
    return images, digits.train_labels[:640]


def _accuracy(model: fs.nn.Module) -> str:
    digits = fs.data.digits()
    with fs.no_grad(), model.evaluating():
        logits = model(fs.Tensor(digits.test_images.reshape(-1, 1, 8, 8))).numpy()
    if np.isnan(logits).all():
        return "in evaluation every output is NaN"
    return f"accuracy in evaluation {fs.metrics.accuracy(logits, digits.test_labels):.0%}"


CASE = Case(
    number=13,
    question="The scaler skipped the bad step, and yet evaluation gives NaN",
    story="fp16 ends at 65504, so a hot pixel of 65535 is infinite, and the step with it is lost: "
    "its gradients are NaN, and the scaler skips it, as it should. But batch norm moves its "
    "running mean and variance in the forward pass, before anybody knows. A NaN stays in a "
    "running mean for ever; training, which uses the statistics of each batch, does not even "
    "notice. Only evaluation does.",
    broken=broken,
    mended=mended,
    finding="statistics-poisoned",
    place="norm1.batch_norm",
    asked=("pytorch#88474", "pytorch#90342", "pytorch#58392"),
)
