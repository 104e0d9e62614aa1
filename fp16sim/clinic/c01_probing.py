"""Case 1: "Gradient overflow. Skipping step", which is how a scaler finds its scale."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import accuracy, perceptron

F = fs.functional


def broken() -> str:
    """Digits, a loss that is a sum over the batch, and the scaler as it comes."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-3)
    scaler = fs.GradScaler()
    skipped = 0
    for batch in fs.data.batches(len(digits.train_images), 64, steps=60, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch], reduction="sum")
        scaler.scale(loss).backward()
        skipped += not scaler.step(optimizer)
        scaler.update()
    reached = f"scale {scaler.get_scale():g}, accuracy {accuracy(model, digits):.0%}"
    return f"{skipped} of 60 steps skipped, {reached}"


def mended() -> str:
    """The same, with a scale to begin with that suits a sum."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-3)
    scaler = fs.GradScaler(init_scale=2**10)
    skipped = 0
    for batch in fs.data.batches(len(digits.train_images), 64, steps=60, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch], reduction="sum")
        scaler.scale(loss).backward()
        skipped += not scaler.step(optimizer)
        scaler.update()
    reached = f"scale {scaler.get_scale():g}, accuracy {accuracy(model, digits):.0%}"
    return f"{skipped} of 60 steps skipped, {reached}"


CASE = Case(
    number=1,
    question='"Gradient overflow. Skipping step": is that normal?',
    story="Small gradients want a large loss scale, and nobody knows how large: so the scaler "
    "begins at 65536, and halves it whenever a gradient leaves the range of fp16, whose "
    "largest number is 65504. That step is left out, the weights stay as they are, and the "
    "next one tries half the scale. Some skipped steps at the start are the search itself, "
    "and so is one every 2000 steps, when the scale is doubled to see whether it can be. A "
    "fitting init_scale saves the first ones; nothing is wrong without.",
    broken=broken,
    mended=mended,
    finding="probing",
    place="2.linear",
    asked=("second.pytorch#253", "autodeeplab#12", "swav#47", "apex#318"),
)
