"""Case 10: Adam's eps of 1e-8, which is 0 in fp16."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import perceptron

F = fs.functional


def broken() -> str:
    """Adam by hand, all of it in fp16, with the eps of the paper."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16).to("fp16")
    optimizer = _Adam(model.parameters(), lr=1e-2, eps=1e-8)
    for batch in fs.data.batches(len(digits.train_images), 64, steps=40, rng=0):
        model.zero_grad()
        logits = model(fs.Tensor(digits.train_images[batch], fmt="fp16"))
        loss = F.cross_entropy(logits, digits.train_labels[batch], reduction="sum")
        loss.backward()
        optimizer.step()
    nans = sum(int(np.isnan(weight.numpy()).sum()) for weight in model.parameters())
    return f"loss {loss.item() / 64:.2f} per image, {nans} weights are NaN"


def mended() -> str:
    """With an eps that fp16 has."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16).to("fp16")
    optimizer = _Adam(model.parameters(), lr=1e-2, eps=1e-4)
    for batch in fs.data.batches(len(digits.train_images), 64, steps=40, rng=0):
        model.zero_grad()
        logits = model(fs.Tensor(digits.train_images[batch], fmt="fp16"))
        loss = F.cross_entropy(logits, digits.train_labels[batch], reduction="sum")
        loss.backward()
        optimizer.step()
    nans = sum(int(np.isnan(weight.numpy()).sum()) for weight in model.parameters())
    return f"loss {loss.item() / 64:.2f} per image, {nans} weights are NaN"


class _Adam:
    """Kingma and Ba (2015), algorithm 1, without the bias correction; every result is rounded."""

    def __init__(self, parameters: Iterable[fs.Tensor], lr: float, eps: float) -> None:
        self.parameters, self.lr, self.eps = list(parameters), lr, eps
        self.moments = [(fs.Tensor(0.0, fmt="fp16"), fs.Tensor(0.0, fmt="fp16"))] * len(
            self.parameters
        )

    def step(self) -> None:
        with fs.no_grad():
            for i, weight in enumerate(self.parameters):
                g, (m, v) = weight.grad, self.moments[i]
                assert g is not None
                m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * (g * g)
                self.moments[i] = m, v
                update = self.lr * m / (v.sqrt() + self.eps)
                weight.data = (weight - update).data


CASE = Case(
    number=10,
    question="Adam in half precision gives NaN at once: is it eps=1e-8?",
    story="The smallest number of fp16 is 2^-24, about 6e-8, and 1e-8 is rounded to 0. The eps "
    "that is to keep Adam from dividing by zero is not there, and the squares of gradients "
    "below 2e-4 are 0, too. So is the gradient of a weight at a pixel that is black in all "
    "images: 0/0, NaN, in the first step. fs.optim.Adam keeps its moments and its arithmetic "
    "in fp32 (as PyTorch does for fp32 weights), which is the better cure; with fp16 "
    "moments, eps must be 1e-4 or so.",
    broken=broken,
    mended=mended,
    finding="division",
    place="divide",
    asked=("pytorch#26218", "keras#11860", "optax#1754", "chainer#6299"),
)
