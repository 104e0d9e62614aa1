"""Case 4: gradients are clipped while the loss scale is still in them."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import accuracy, perceptron

F = fs.functional


def broken() -> str:
    """Clipping at 1.0 between backward and step, where it stood before there was a scaler."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.SGD(model.parameters(), lr=0.5)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(digits.train_images), 64, steps=60, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        fs.optim.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.2f}, accuracy {accuracy(model, digits):.0%}"


def mended() -> str:
    """The same, with the scale taken out before."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.SGD(model.parameters(), lr=0.5)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(digits.train_images), 64, steps=60, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        fs.optim.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.2f}, accuracy {accuracy(model, digits):.0%}"


CASE = Case(
    number=4,
    question="Nothing is learned since gradient clipping and a scaler came together",
    story="After scaler.scale(loss).backward() every gradient is 65536 times too large, and nearly "
    "always longer than the limit of 1. Clipping makes its length 1, and step(), which then "
    "divides by the scale, makes that 1/65536: every update is tens of thousands of times "
    "too small. Adam, which does not mind the length of gradients, hides most of this.",
    broken=broken,
    mended=mended,
    finding="clip-before-unscale",
    place="clip_grad_norm_",
    asked=(
        "pytorch/examples#1196",
        "Pytorch-UNet#468",
        "Lightning#9606",
        "EveryDream2trainer#175",
        "allennlp#5426",
    ),
)
