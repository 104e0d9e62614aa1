"""Case 6: a layer norm by hand, whose squares leave the range of fp16."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import fp16sim as fs
from fp16sim.clinic.case import Case

F = fs.functional
Norm: TypeAlias = Callable[[fs.Tensor], fs.Tensor]


def broken() -> str:
    """The variance as the formula says."""

    def norm(x: fs.Tensor) -> fs.Tensor:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return centred / (variance + 1e-5).sqrt()

    return _train(norm)


def mended() -> str:
    """The same, in fp32; or fs.nn.LayerNorm, which computes so inside."""

    def norm(x: fs.Tensor) -> fs.Tensor:
        x = x.to("fp32")
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        return centred / (variance + 1e-5).sqrt()

    return _train(norm)


class _Net(fs.nn.Module):
    """Two layers with a norm between."""

    def __init__(self, norm: Norm) -> None:
        self.embed = fs.nn.Linear(64, 32, rng=0)
        self.norm = _Norm(norm)
        self.head = fs.nn.Linear(32, 16, rng=1)

    def forward(self, images: fs.Tensor) -> fs.Tensor:
        logits: fs.Tensor = self.head(self.norm(self.embed(images)))
        return logits


class _Norm(fs.nn.Module):
    """The function as a layer, so that it has a name in the report."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm

    def forward(self, x: fs.Tensor) -> fs.Tensor:
        return self.norm(x)


def _train(norm: Norm) -> str:
    digits, model = fs.data.digits(), _Net(norm)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(digits.train_images), 64, steps=30, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch] * 1023))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.2f}, scale {scaler.get_scale():g}"


CASE = Case(
    number=6,
    question="A layer norm written by hand loses everything in half precision",
    story="Ten-bit pixels, up to 1023, give activations of some hundreds. These are no problem for "
    "fp16, but their squares are: 256 x 256 = 65536 is beyond its largest number, 65504. The "
    "variance becomes infinite, and what is divided by it 0: no NaN, only rows in which "
    "everything is lost. fs.nn.LayerNorm and PyTorch's take the variance in fp32 inside; by "
    "hand that is one line. (The eps has the other end to fear: 1e-12 is 0 in fp16.)",
    broken=broken,
    mended=mended,
    finding="square-overflow",
    place="norm.multiply",
    asked=(
        "pytorch#66707",
        "pytorch#41527",
        "tensorflow#24979",
        "onnxruntime#29045",
        "brainchop-cli#56",
    ),
)
