"""Case 3: NaN after many steps, while fp32 trains well: activations have grown too large."""

from __future__ import annotations

import numpy as np

import fp16sim as fs
from fp16sim.clinic.case import Case

F = fs.functional


def broken() -> str:
    """Eight residual blocks, each of which may square what it is given."""
    digits = fs.data.digits()
    blocks = [_Block(32, fs.nn.Sequential(), seed) for seed in range(8)]
    model = fs.nn.Sequential(fs.nn.Linear(64, 32, rng=5), *blocks, fs.nn.Linear(32, 16, rng=9))
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler, losses = fs.GradScaler(), []
    for batch in fs.data.batches(len(digits.train_images), 64, steps=25, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return f"{int(np.isnan(losses).sum())} of 25 losses are NaN"


def mended() -> str:
    """With a layer norm in front of each."""
    digits = fs.data.digits()
    blocks = [_Block(32, fs.nn.LayerNorm(32), seed) for seed in range(8)]
    model = fs.nn.Sequential(fs.nn.Linear(64, 32, rng=5), *blocks, fs.nn.Linear(32, 16, rng=9))
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler, losses = fs.GradScaler(), []
    for batch in fs.data.batches(len(digits.train_images), 64, steps=25, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return f"{int(np.isnan(losses).sum())} of 25 losses are NaN"


class _Block(fs.nn.Module):
    """x + W2 relu(W1 norm(x))²: the feed-forward layer of So et al., "Primer" (2021)."""

    def __init__(self, width: int, norm: fs.nn.Module, seed: int) -> None:
        self.norm = norm
        self.up = fs.nn.Linear(width, width, rng=seed)
        self.down = fs.nn.Linear(width, width, rng=100 + seed)

    def forward(self, x: fs.Tensor) -> fs.Tensor:
        hidden = F.relu(self.up(self.norm(x)))
        added: fs.Tensor = x + self.down(hidden * hidden)
        return added


CASE = Case(
    number=3,
    question="NaN after some thousand steps, and fp32 trains well",
    story="Eight residual blocks square their activations, and nothing normalises: as the weights "
    "grow, so do the activations, each block more than the one below, until a square passes "
    "65504. fp32 does not notice; it would at 3e38. The infinity is born far above the "
    "layers that caused it, and what is seen at last is a NaN in the loss: so the question "
    "is where the first one was born, and in which step. A norm in front of every block "
    "keeps them small.",
    broken=broken,
    mended=mended,
    finding="activations-grow",
    place="8.multiply",
    asked=(
        "nanoGPT#136",
        "nanoGPT#167",
        "wenet#2616",
        "pytorch#43556",
        "imageclassification#1",
    ),
)
