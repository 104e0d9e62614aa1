"""Case 16: gradients accumulate, and are unscaled and clipped too early."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import accuracy, perceptron

F = fs.functional


def broken() -> str:
    """Unscaled, clipped and the scaler updated after each of four parts of a batch."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.SGD(model.parameters(), lr=0.5)
    scaler = fs.GradScaler()
    parts = fs.data.batches(len(digits.train_images), 16, steps=160, rng=0)
    for number, part in enumerate(parts, 1):
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[part]))
            loss = F.cross_entropy(logits, digits.train_labels[part]) / 4
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = fs.optim.clip_grad_norm_(model.parameters(), 1.0)
        if number % 4 == 0:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
    return f"norm of the last gradient {norm:.2f}, accuracy {accuracy(model, digits):.0%}"


def mended() -> str:
    """All that once for a whole batch."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.SGD(model.parameters(), lr=0.5)
    scaler = fs.GradScaler()
    parts = fs.data.batches(len(digits.train_images), 16, steps=160, rng=0)
    for number, part in enumerate(parts, 1):
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[part]))
            loss = F.cross_entropy(logits, digits.train_labels[part]) / 4
        scaler.scale(loss).backward()
        if number % 4 == 0:
            scaler.unscale_(optimizer)
            norm = fs.optim.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            optimizer.zero_grad()
            scaler.update()
    return f"norm of the last gradient {norm:.2f}, accuracy {accuracy(model, digits):.0%}"


CASE = Case(
    number=16,
    question="Gradient accumulation with a scaler: the large batch learns like a small one",
    story="Gradients that are added up must have one scale. Unscaled after the first part, they "
    "are 65536 times smaller than what the second part adds to them, and at the end nothing "
    "is left but the last part: a quarter of the batch, divided by 4. Nor may the scale move "
    "between parts. unscale_, clipping, step and update belong after the last backward; "
    "calling unscale_ twice without update is an error for this reason, which an update "
    "after every part hides.",
    broken=broken,
    mended=mended,
    finding="mixed-scales",
    place="scaler.unscale_",
    asked=("pytorch#36601", "Swin-Transformer#311", "fastai#3048"),
)
