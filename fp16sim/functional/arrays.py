"""Choosing, joining and padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.arguments import integer, real
from fp16sim.autograd.ops import elementwise, shape
from fp16sim.autograd.tensor import Operand, Tensor
from fp16sim.backend import RandomLike, generator, to_device
from fp16sim.functional.checks import booleans, broadcast, integers, switch, tensor, with_axes


def maximum(input: Tensor, other: Operand) -> Tensor:
    """The larger of both, each element; equal ones share the gradient. NaN wins."""
    return elementwise.maximum(*broadcast(tensor(input, "input"), other, "other"))


def minimum(input: Tensor, other: Operand) -> Tensor:
    """The smaller of both, each element; equal ones share the gradient. NaN wins."""
    return elementwise.minimum(*broadcast(tensor(input, "input"), other, "other"))


def scale(input: Tensor, forward: float = 1.0, backward: float = 1.0) -> Tensor:
    """x · forward; on the way back the gradient is multiplied by ``backward`` instead.

    Unit scaling's element: with two different numbers it is no derivative any more, but where all
    of the loss depends on the input through this alone, every gradient below is only multiplied by
    backward / forward. Source: Blake, Orr and Luschi, "Unit Scaling", ICML 2023, arXiv 2303.11257.
    """
    factors = real("forward", forward), real("backward", backward)
    return elementwise.scale(tensor(input, "input"), forward=factors[0], backward=factors[1])


def where(condition: ArrayLike, input: Tensor, other: Operand) -> Tensor:
    """``input`` where the condition (booleans) holds, else ``other``; all three broadcast."""
    x, y = broadcast(tensor(input, "input"), other, "other")
    chosen = booleans(condition, "condition", x)
    try:
        np.broadcast_shapes(chosen.shape, x.shape, y.shape)
    except ValueError:
        raise ValueError(
            f"condition of shape {chosen.shape} does not broadcast with {x.shape} and {y.shape}"
        ) from None
    # A copy: backward wants the condition as it is now.
    return elementwise.where(x, y, condition=chosen.copy())


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """One tensor of several that differ in size along ``axis`` only."""
    parts = _several(tensors)
    ndim = parts[0].ndim
    integer("axis", axis, at_least=-ndim, at_most=ndim - 1)
    rest = [part.shape[: axis % ndim] + part.shape[axis % ndim + 1 :] for part in parts]
    if len(set(rest)) > 1 or any(part.ndim != ndim for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"tensors have shapes {shapes}; they may differ along axis {axis} only")
    return shape.concatenate(*parts, axis=axis)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """One tensor of several of one shape, along a new axis."""
    parts = _several(tensors)
    if any(part.shape != parts[0].shape for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"tensors have shapes [{shapes}]; they must all have one")
    ndim = parts[0].ndim + 1
    at = integer("axis", axis, at_least=-ndim, at_most=ndim - 1) % ndim
    size = (*parts[0].shape[:at], 1, *parts[0].shape[at:])
    return concatenate([part.reshape(size) for part in parts], at)


def _several(tensors: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(tensors, tuple | list):
        raise TypeError(f"tensors must be a sequence of Tensors, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError("tensors is empty; give at least one")
    return [tensor(part, f"tensors[{i}]") for i, part in enumerate(tensors)]


def pad(input: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """A border of a constant: (before, after) of the last axis, then of the one before it, ...

    As ``torch.nn.functional.pad`` with mode "constant", but widths are at least 0.
    """
    x = tensor(input, "input")
    if not isinstance(pad, tuple | list):
        raise TypeError(f"pad must be a sequence of widths, got {pad!r}")
    widths = [integer("pad", width, at_least=0) for width in pad]
    if len(widths) % 2 or len(widths) > 2 * x.ndim:
        raise ValueError(f"pad={pad!r} must have two widths for each of at most {x.ndim} axes")
    pairs = list(zip(widths[::2], widths[1::2], strict=True))
    every = [(0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
    return shape.pad(x, widths=tuple(every), value=real("value", value))


def embedding(input: ArrayLike, weight: Tensor) -> Tensor:
    """Rows of ``weight`` (entries, width) by their numbers; input's shape and then width."""
    w = with_axes(weight, "weight", 2, "(entries, width)")
    return shape.embedding(w, ids=integers(input, "input", w, w.shape[0]))


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, *, rng: RandomLike = None
) -> Tensor:
    """Each element is zero with probability p, else divided by 1 - p; nothing if not training.

    Source: Srivastava et al., "Dropout", JMLR 15 (2014), scaled while training.
    """
    x, p = tensor(input, "input"), real("p", p, at_least=0, at_most=1)
    if not switch("training", training) or p == 0:
        return x
    kept = generator(rng).random(x.shape, np.float32) >= p
    return shape.dropout(x, kept=to_device(kept, x.device), p=p)
