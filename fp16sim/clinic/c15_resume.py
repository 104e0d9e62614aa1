"""Case 15: a run is continued from a checkpoint that the scaler is missing from."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import accuracy, perceptron

F = fs.functional


def broken() -> str:
    """Model and optimiser are saved and loaded."""
    model = perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    _train(model, optimizer, scaler)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    scaler = fs.GradScaler()  # another day
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return f"after resuming {_train(model, optimizer, scaler)}"


def mended() -> str:
    """And the scaler."""
    model = perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    _train(model, optimizer, scaler)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    saved["scaler"] = scaler.state_dict()

    scaler = fs.GradScaler()  # another day
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scaler.load_state_dict(saved["scaler"])
    return f"after resuming {_train(model, optimizer, scaler)}"


def _train(model: fs.nn.Module, optimizer: fs.optim.Optimizer, scaler: fs.GradScaler) -> str:
    digits, skipped = fs.data.digits(), 0
    for batch in fs.data.batches(len(digits.train_images), 64, steps=20, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch], reduction="sum")
        scaler.scale(loss).backward()
        skipped += not scaler.step(optimizer)
        scaler.update()
    reached = f"scale {scaler.get_scale():g}, accuracy {accuracy(model, digits):.0%}"
    return f"{skipped} of 20 steps skipped, {reached}"


CASE = Case(
    number=15,
    question="A resumed run differs from one that was never stopped",
    story="The scaler has a state: the scale that it has found, and how many good steps it has "
    "seen since it last moved. A new one begins at 65536 again, and searches again: steps "
    "are skipped that the run without a break would have taken. Save scaler.state_dict() "
    "with the rest. (fs.training.Run does.)",
    broken=broken,
    mended=mended,
    finding="scale-lost",
    place="scaler.load_state_dict",
    asked=("transformers#11663", "ultralytics#22189", "metaseq#3", "accelerate#4289"),
)
