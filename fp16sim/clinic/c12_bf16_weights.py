"""Case 12: a network that was trained in bf16 overflows in fp16."""

from __future__ import annotations

import numpy as np

import fp16sim as fs
from fp16sim.clinic.case import Case
from fp16sim.clinic.classifier import perceptron

F = fs.functional


def broken() -> str:
    """The network runs in fp16."""
    images, model = fs.data.digits().test_images, _pretrained()
    with fs.autocast("fp16"):
        logits = model(fs.Tensor(images)).numpy()
    return _quality(logits)


def mended() -> str:
    """In bf16, as it was trained."""
    images, model = fs.data.digits().test_images, _pretrained()
    with fs.autocast("bf16"):
        logits = model(fs.Tensor(images)).numpy()
    return _quality(logits)


def _quality(logits: np.ndarray) -> str:
    lost = ~np.isfinite(logits).all(axis=1)
    right = fs.metrics.accuracy(np.nan_to_num(logits), fs.data.digits().test_labels)
    return f"accuracy {right:.0%}; {int(lost.sum())} of {len(logits)} images have no finite answer"


def _pretrained() -> fs.nn.Module:
    """A classifier trained in bf16, with weights that are small in the second layer.

    ReLU lets one layer be large if the next is small, relu(c·x)/c = relu(x), and nothing in bf16
    training keeps the two alike. Here c is a power of two, so that in bf16 no result changes.
    """
    digits, model = fs.data.digits(), perceptron(64, 32, 16)
    optimizer = fs.optim.Adam(model.parameters(), lr=1e-2)
    for batch in fs.data.batches(len(digits.train_images), 64, steps=60, rng=0):
        optimizer.zero_grad()
        with fs.autocast("bf16"):
            logits = model(fs.Tensor(digits.train_images[batch]))
            loss = F.cross_entropy(logits, digits.train_labels[batch])
        loss.backward()
        optimizer.step()
    weights = model.state_dict()
    for name, factor in (("0.weight", 2.0**16), ("0.bias", 2.0**16), ("2.weight", 2.0**-16)):
        weights[name] = weights[name] * factor
    model.load_state_dict(weights)
    return model


CASE = Case(
    number=12,
    question="A network that was trained in bf16 gives NaN in fp16",
    story="bf16 has the range of fp32, up to 3e38, and fp16 ends at 65504. A network that was "
    "trained in bf16 may have got used to activations beyond that (66246 was one of T5's; "
    "280000 in another): they become infinite, the next layer adds infinities of both signs, "
    "and that is NaN. No loss scale helps, for it is the forward pass. Stay in bf16, or "
    "compute the large layers in fp32.",
    broken=broken,
    mended=mended,
    finding="activation-overflow",
    place="0.linear",
    asked=(
        "transformers#5651",
        "transformers#4586",
        "transformers#10956",
        "text-to-text-transfer-transformer#539",
    ),
)
