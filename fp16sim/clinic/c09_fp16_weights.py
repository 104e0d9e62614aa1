"""Case 9: "Attempting to unscale FP16 gradients"."""

from __future__ import annotations

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import accuracy, perceptron

F = fs.functional


def broken() -> str:
    """The whole model in fp16, and a scaler."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    model.to("fp16")
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(digits.train_images), 64, steps=60, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.2f}, accuracy {accuracy(model, digits):.0%}"


def mended() -> str:
    """The model in fp32; autocast computes in fp16."""
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    scaler = fs.GradScaler()
    for batch in fs.data.batches(len(digits.train_images), 64, steps=60, rng=0):
        optimizer.zero_grad()
        with fs.autocast("fp16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return f"loss {loss.item():.2f}, accuracy {accuracy(model, digits):.0%}"


CASE = Case(
    number=9,
    question='"Attempting to unscale FP16 gradients"',
    story="A gradient lives in the format of its weight, so model.to('fp16') (PyTorch: "
    "model.half()) makes fp16 gradients. Scaled, they fit; divided by 65536 they would fall "
    "below 6e-8, fp16's smallest number, and be lost after all: hence the refusal. And an "
    "fp16 weight takes no update smaller than 2^-12 of its size. Mixed precision means fp32 "
    "weights which autocast rounds for each product.",
    broken=broken,
    mended=mended,
    finding="fp16-weights",
    place="scaler.unscale_",
    asked=("LLaVA#363", "bitsandbytes#945", "AdaFace#127", "d3po#6"),
)
