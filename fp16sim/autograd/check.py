"""Checking a backward rule against finite differences, in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fp16sim.autograd.tensor import Tensor
from fp16sim.backend import RandomLike, generator
from fp16sim.formats import FP64


def check_gradients(
    function: Callable[..., Tensor],
    *inputs: Tensor,
    step: float = 1e-6,
    tolerance: float = 1e-7,
    rng: RandomLike = 0,
) -> None:
    """Compare the derivative along a random direction with a central difference.

    function: from tensors to one tensor of any shape. inputs: FP64 leaves; those that require a
    gradient are moved together along one random direction v, and the result is weighted by random
    w, so two evaluations check all gradients: <w, (f(x+hv) - f(x-hv)) / 2h> against <grad, v>.
    tolerance: relative to |grad||v|, never absolute: a tiny gradient must be right as well.

    Raises ValueError for an input that is not FP64 or not on the host, AssertionError if the two
    disagree.
    """
    random = generator(rng)
    for position, x in enumerate(inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs[{position}] must be a Tensor, got {type(x).__name__}")
        if x.fmt != FP64:
            raise ValueError(f"inputs[{position}] is {x.fmt}; finite differences need fp64")
        if x.device != "cpu":
            raise ValueError(
                f"inputs[{position}] is on the GPU; finite differences need the host: .to('cpu')"
            )
    directions = [
        random.standard_normal(x.shape) * x.requires_grad for x in inputs
    ]  # zero for the ones held fixed

    fresh = [Tensor(x, requires_grad=x.requires_grad) for x in inputs]
    output = function(*fresh)
    weights = random.standard_normal(output.shape)
    output.backward(weights)
    gradients = [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in fresh]
    analytic = sum(float(np.vdot(g, v)) for g, v in zip(gradients, directions, strict=True))

    def along(h: float) -> float:
        moved = [
            Tensor(x.data + h * v, requires_grad=x.requires_grad)
            for x, v in zip(inputs, directions, strict=True)
        ]
        return float(np.vdot(function(*moved).data, weights))

    numeric = (along(step) - along(-step)) / (2 * step)
    scale = sum(
        float(np.linalg.norm(g) * np.linalg.norm(v))
        for g, v in zip(gradients, directions, strict=True)
    )
    if not abs(numeric - analytic) <= tolerance * scale:
        raise AssertionError(
            f"along a random direction backward gives {analytic!r}, differences {numeric!r}: "
            f"apart by {abs(numeric - analytic):.3g}, allowed is {tolerance * scale:.3g}"
        )
