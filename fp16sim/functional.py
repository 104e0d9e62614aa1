"""PyTorch's names for the primitives: checks, documentation, a call; no mathematics here."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.arguments import one_of
from fp16sim.autograd.ops import elementwise, fused
from fp16sim.autograd.tensor import Operand, Tensor, operand
from fp16sim.backend import namespace_of

__all__ = ["cross_entropy", "linear", "mse_loss", "relu", "sigmoid", "tanh"]


def _tensor(value: object, argument: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a Tensor, got {type(value).__name__}")
    return value


def relu(input: Tensor) -> Tensor:
    """max(x, 0), each element; exact in every format."""
    return elementwise.relu(_tensor(input, "input"))


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e^-x), each element: evaluated in the carrier, then rounded.

    Faithful in formats narrower than fp32; in fp32 within a few units in the last place.
    """
    return elementwise.sigmoid(_tensor(input, "input"))


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent, each element: evaluated in the carrier, then rounded.

    Faithful in formats narrower than fp32; in fp32 within a few units in the last place.
    """
    return elementwise.tanh(_tensor(input, "input"))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, accumulated in the carrier and rounded once.

    input: (..., in). weight: (out, in). bias: (out,) or None. Returns (..., out).
    """
    x, w = _tensor(input, "input"), _tensor(weight, "weight")
    if w.ndim != 2:
        raise ValueError(f"weight has shape {w.shape}; allowed is (out, in)")
    if x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"input has shape {x.shape}; allowed is (..., {w.shape[1]})")
    if bias is None:
        return fused.linear(x, w)
    b = _tensor(bias, "bias")
    if b.shape != w.shape[:1]:
        raise ValueError(f"bias has shape {b.shape}; allowed is {w.shape[:1]}")
    return fused.linear(x, w, b)


def mse_loss(input: Tensor, target: Operand, reduction: str = "mean") -> Tensor:
    """(x - target)² over all elements: one primitive, rounded once; fp32 under autocast.

    input, target: of the same shape (no broadcasting). reduction: "mean", "sum" or "none".
    """
    x = _tensor(input, "input")
    t = operand(target, x, "target")
    if x.shape != t.shape:
        raise ValueError(f"target has shape {t.shape}; allowed is the input's {x.shape}")
    return fused.mse_loss(x, t, reduction=one_of("reduction", reduction, fused.REDUCTIONS))


def cross_entropy(input: Tensor, target: ArrayLike, reduction: str = "mean") -> Tensor:
    """-log softmax(x)[target]: one primitive, rounded once; fp32 under autocast.

    input: logits (N, classes). target: integers (N,) from 0 to classes - 1.
    reduction: "mean", "sum" or "none".
    """
    x = _tensor(input, "input")
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"input has shape {x.shape}; allowed is (N, classes)")
    xp = namespace_of(x.data)
    if isinstance(target, Tensor):
        raise TypeError("target must be an array of integers, got a Tensor (of floats)")
    try:
        labels = xp.asarray(target)
    except ValueError as error:
        raise TypeError(f"target cannot be made an array: {error}") from error
    if labels.dtype.kind not in "iu":
        raise TypeError(f"target has dtype {labels.dtype}; allowed are integers")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"target has shape {labels.shape}; allowed is {x.shape[:1]}")
    if labels.size and not (labels.min() >= 0 and labels.max() < x.shape[1]):
        outside = labels[(labels < 0) | (labels >= x.shape[1])][0]
        raise ValueError(f"target has the class {outside}; allowed are 0 to {x.shape[1] - 1}")
    labels = labels.astype(np.intp)
    return fused.cross_entropy(
        x, target=labels, reduction=one_of("reduction", reduction, fused.REDUCTIONS)
    )
