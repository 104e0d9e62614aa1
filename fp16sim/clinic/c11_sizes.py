"""Case 11: half precision is not faster; the sizes are not multiples of 8."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import accuracy, perceptron

F = fs.functional


def broken() -> str:
    """Round numbers, for people: 100 hidden units, 10 classes."""
    digits, model = fs.data.digits(), perceptron(64, 100, 10)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(digits.train_images), 64, steps=30, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"accuracy {accuracy(model, digits):.0%}, {_odd(model)}"


def mended() -> str:
    """Round numbers, for Tensor Cores: 104 hidden units, 16 classes, six of which never occur."""
    digits, model = fs.data.digits(), perceptron(64, 104, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(digits.train_images), 64, steps=30, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"accuracy {accuracy(model, digits):.0%}, {_odd(model)}"


def _odd(model: fs.nn.Module) -> str:
    shapes = [weight.shape for weight in model.parameters() if weight.ndim == 2]
    odd = [shape for shape in shapes if shape[0] % 8 or shape[1] % 8]
    return f"{len(odd)} of {len(shapes)} weight matrices have sizes that are no multiples of 8"


CASE = Case(
    number=11,
    question="No speed-up from mixed precision, or it is even slower",
    story="Tensor Cores multiply small tiles of fixed sizes, and read rows that begin at multiples "
    "of 16 bytes: 8 numbers of fp16. A matrix of other sizes is padded, or computed without "
    "Tensor Cores. This emulator can show that cause and not the time, which only a GPU has. "
    "Other causes that it cannot see: matrices too small to fill the GPU, casts that cost "
    "more than they save, and clocks that are read before the GPU is done.",
    broken=broken,
    mended=mended,
    finding="odd-sizes",
    place="0.linear",
    asked=(
        "apex#153",
        "apex#325",
        "fairseq#1047",
        "tensorflow#34406",
        "OpenSeq2Seq#270",
        "pytorch#59177",
        "cupy#10317",
    ),
)
