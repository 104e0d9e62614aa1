"""Case 14: gradients vanish in silence, without an infinity or a NaN anywhere."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case


def broken() -> str:
    """A deep autoencoder in fp16 without loss scaling."""
    images = fs.data.digits().train_images
    model = fs.models.Autoencoder((64, 32, 16), rng=0)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    for batch in fs.data.batches(len(images), 1024, steps=100, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            loss = model.loss(images[batch])
        loss.backward()
        optimizer.step()
    return f"loss {loss.item():.4f}; {_without_gradient(model)}"


def mended() -> str:
    """With it."""
    images = fs.data.digits().train_images
    model = fs.models.Autoencoder((64, 32, 16), rng=0)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(images), 1024, steps=100, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            loss = model.loss(images[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.4f}; {_without_gradient(model)}"


def _without_gradient(model: fs.nn.Module) -> str:
    """How much of the first layer has no gradient at the end."""
    gradient = dict(model.named_parameters())["encoder.0.linear.weight"].grad
    assert gradient is not None
    return f"{(gradient.numpy() == 0).mean():.0%} of the first layer's gradients are 0"


CASE = Case(
    number=14,
    question="fp16 learns worse than fp32, without any warning: is it underflow?",
    story="The loss is a mean over 1024 x 64 pixels, so gradients start below 2^-15, and every "
    "sigmoid on the way down multiplies them by 1/4 at most: soon they are below 2^-25, half "
    "of fp16's smallest number, and rounded to 0. Nothing complains, and the layers below "
    "learn from what is left. After rounding, such a 0 looks like that of a dead unit; only "
    "who sees the value before and after can tell. With the loss multiplied by 65536 the "
    "same gradients are well inside the range.",
    broken=broken,
    mended=mended,
    finding="underflow",
    place="encoder.0.linear.sigmoid",
    asked=("chainer#6199", "Open-Rig3R#35", "apex#595", "gpt-neox#477", "Fast-LLM#525"),
)
