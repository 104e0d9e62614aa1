"""Case 7: binary cross-entropy of probabilities, one of which has been rounded to 1."""

from __future__ import annotations

import numpy as np

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import perceptron

F = fs.functional


def broken() -> str:
    """The network ends with a sigmoid, and the loss takes logarithms."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-2)
    scaler = fs.GradScaler()
    losses = []
    for batch in fs.data.batches(len(digits.train_images), 64, steps=45, rng=0):
        wanted = fs.Tensor(_one_hot(digits.train_labels[batch]))
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            p = F.sigmoid(logits)
            loss = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return f"{int(np.isnan(losses).sum())} of 45 losses are NaN, scale {scaler.get_scale():g}"


def mended() -> str:
    """The same loss of the logits themselves."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=3e-2)
    scaler = fs.GradScaler()
    losses = []
    for batch in fs.data.batches(len(digits.train_images), 64, steps=45, rng=0):
        wanted = fs.Tensor(_one_hot(digits.train_labels[batch]))
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.binary_cross_entropy_with_logits(logits, wanted)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return f"{int(np.isnan(losses).sum())} of 45 losses are NaN, scale {scaler.get_scale():g}"


def _one_hot(labels: np.ndarray) -> np.ndarray:
    rows: np.ndarray = np.eye(16, dtype=np.float32)[labels]
    return rows


CASE = Case(
    number=7,
    question='NaN from BCELoss, or "binary_cross_entropy is unsafe to autocast"',
    story="The sigmoid runs in fp16, whose last number below 1 is 1 - 2^-11: a logit above 8.3, "
    "that is a network which is sure, gives a probability of just 1. Then log(1 - p) is "
    "-infinity, and where the answer was right it is multiplied by 0, which makes NaN. That "
    "autocast takes the logarithm in fp32 does not help: what was rounded is p. The loss of "
    "logits never forms p. PyTorch refuses to compute binary_cross_entropy under autocast "
    "for this reason.",
    broken=broken,
    mended=mended,
    finding="log-of-zero",
    place="log",
    asked=("pytorch#61098", "YOLOX#336", "pytorch#49844"),
)
