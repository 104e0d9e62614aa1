"""Case 2: the loss scale falls and falls, since no scale mends a NaN of the forward pass."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import perceptron

F = fs.functional


def broken() -> str:
    """Pixels are standardised in fp16, with an eps that fp16 does not have."""
    digits, scaler = fs.data.digits(), fs.GradScaler()
    model = _Standardised(eps=1e-8)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    for batch in fs.data.batches(len(digits.train_images), 64, steps=15, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.2f}, scale {scaler.get_scale():g}"


def mended() -> str:
    """With one that it has."""
    digits, scaler = fs.data.digits(), fs.GradScaler()
    model = _Standardised(eps=1e-3)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    for batch in fs.data.batches(len(digits.train_images), 64, steps=15, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.2f}, scale {scaler.get_scale():g}"


class _Standardised(fs.nn.Module):
    """A classifier that first gives every pixel mean 0 and variance 1 over the batch."""

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self.classify = perceptron(64, 32, 16)

    def forward(self, images: fs.Tensor) -> fs.Tensor:
        x = images.to("fp16")
        spread = x.var(axis=0).sqrt()
        logits: fs.Tensor = self.classify((x - x.mean(axis=0)) / (spread + self.eps))
        return logits


CASE = Case(
    number=2,
    question="The loss scale keeps falling, to 1 and below",
    story="Some pixels at the edge are 0 in every image, so their standard deviation is 0. The "
    "1e-8 that is added to it is below half of fp16's smallest number, 6e-8, and is 0 too: "
    "0/0 is NaN, in every step. The scaler sees gradients that are not finite, and halves "
    "the scale, which it can do for ever: the NaN is born on the way forward, where no loss "
    "scale reaches. Do not give the scale a floor; find the operation. (Gradients that "
    "zero_grad() was to clear do the same: once there is a NaN among them, every sum with it "
    "is NaN.)",
    broken=broken,
    mended=mended,
    finding="scale-falls",
    place="divide",
    asked=(
        "Paddle#67895",
        "apex#318",
        "stylegan2-pytorch#100",
        "Chinese-LLaMA-Alpaca#534",
        "pytorch#99640",
    ),
)
