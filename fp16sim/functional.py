"""PyTorch's names for the primitives: checks, documentation, a call; no mathematics here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.arguments import integer, one_of, real
from fp16sim.autograd.ops import elementwise, fused, norms, shape
from fp16sim.autograd.tensor import Operand, Tensor, operand
from fp16sim.backend import namespace_of

__all__ = [
    "concatenate",
    "cross_entropy",
    "layer_norm",
    "linear",
    "log_softmax",
    "maximum",
    "minimum",
    "mse_loss",
    "relu",
    "rms_norm",
    "sigmoid",
    "softmax",
    "stack",
    "tanh",
    "where",
]


def _tensor(value: object, argument: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a Tensor, got {type(value).__name__}")
    return value


def maximum(input: Tensor, other: Operand) -> Tensor:
    """The larger of both, each element; equal ones share the gradient. NaN wins."""
    return elementwise.maximum(*_broadcast(_tensor(input, "input"), other, "other"))


def minimum(input: Tensor, other: Operand) -> Tensor:
    """The smaller of both, each element; equal ones share the gradient. NaN wins."""
    return elementwise.minimum(*_broadcast(_tensor(input, "input"), other, "other"))


def where(condition: ArrayLike, input: Tensor, other: Operand) -> Tensor:
    """``input`` where the condition (booleans) holds, else ``other``; all three broadcast."""
    chosen = np.asarray(condition)
    if chosen.dtype != bool:
        raise TypeError(f"condition has dtype {chosen.dtype}; allowed are booleans")
    x, y = _broadcast(_tensor(input, "input"), other, "other")
    try:
        np.broadcast_shapes(chosen.shape, x.shape, y.shape)
    except ValueError:
        raise ValueError(
            f"condition of shape {chosen.shape} does not broadcast with {x.shape} and {y.shape}"
        ) from None
    return elementwise.where(x, y, condition=chosen)


def _broadcast(x: Tensor, other: Operand, argument: str) -> tuple[Tensor, Tensor]:
    y = operand(other, x, argument)
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        raise ValueError(
            f"{argument} of shape {y.shape} does not broadcast with {x.shape}"
        ) from None
    return x, y


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """One tensor of several that differ in size along ``axis`` only."""
    parts = [_tensor(part, f"tensors[{i}]") for i, part in enumerate(tensors)]
    if not parts:
        raise ValueError("tensors is empty; give at least one")
    ndim = parts[0].ndim
    integer("axis", axis, at_least=-ndim, at_most=ndim - 1)
    rest = [part.shape[: axis % ndim] + part.shape[axis % ndim + 1 :] for part in parts]
    if len(set(rest)) > 1 or any(part.ndim != ndim for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"tensors have shapes {shapes}; they may differ along axis {axis} only")
    return shape.concatenate(*parts, axis=axis)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """One tensor of several of one shape, along a new axis."""
    parts = [_tensor(part, f"tensors[{i}]") for i, part in enumerate(tensors)]
    if not parts or any(part.shape != parts[0].shape for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"tensors have shapes [{shapes}]; allowed are some of one shape")
    ndim = parts[0].ndim + 1
    at = integer("axis", axis, at_least=-ndim, at_most=ndim - 1) % ndim
    size = (*parts[0].shape[:at], 1, *parts[0].shape[at:])
    return concatenate([part.reshape(size) for part in parts], at)


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


def softmax(input: Tensor, axis: int = -1) -> Tensor:
    """e^x / Σ e^x along an axis: inside in the carrier's precision, rounded once."""
    return fused.softmax(_with_axis(input, axis), axis=axis)


def log_softmax(input: Tensor, axis: int = -1) -> Tensor:
    """x - log Σ e^x along an axis: inside in the carrier's precision, rounded once."""
    return fused.log_softmax(_with_axis(input, axis), axis=axis)


def _with_axis(value: Tensor, axis: int) -> Tensor:
    x = _tensor(value, "input")
    if x.ndim == 0:
        raise ValueError("input has no axes; it needs at least one")
    integer("axis", axis, at_least=-x.ndim, at_most=x.ndim - 1)
    if x.shape[axis] == 0:
        raise ValueError(f"input has shape {x.shape}: no values along axis {axis}")
    return x


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / √(var + eps) · weight + bias over the last axes, which have normalized_shape.

    One primitive: statistics in the carrier's precision, one rounding. weight and bias have
    normalized_shape. Source: Ba, Kiros and Hinton, "Layer Normalization", arXiv 1607.06450.
    """
    x, axes = _with_last_axes(input, normalized_shape, weight=weight, bias=bias)
    if bias is not None and weight is None:
        raise ValueError("bias without weight is not supported; give a weight of ones")
    given = [part for part in (weight, bias) if part is not None]
    return norms.layer_norm(x, *given, axes=axes, eps=real("eps", eps, at_least=0))


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axes, which have normalized_shape.

    One primitive, as ``layer_norm``. Source: Zhang and Sennrich, "Root Mean Square Layer
    Normalization", arXiv 1910.07467. (PyTorch's eps is the dtype's; this one is a number.)
    """
    x, axes = _with_last_axes(input, normalized_shape, weight=weight)
    given = [] if weight is None else [weight]
    return norms.rms_norm(x, *given, axes=axes, eps=real("eps", eps, at_least=0))


def _with_last_axes(
    value: Tensor, normalized_shape: int | Sequence[int], **parameters: Tensor | None
) -> tuple[Tensor, tuple[int, ...]]:
    x = _tensor(value, "input")
    given = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not given or x.shape[-len(given) :] != given or 0 in given:
        raise ValueError(
            f"normalized_shape={normalized_shape!r} must be the last sizes of input's {x.shape}"
        )
    for name, parameter in parameters.items():
        if parameter is not None and _tensor(parameter, name).shape != given:
            raise ValueError(f"{name} has shape {parameter.shape}; allowed is {given}")
    return x, tuple(range(-len(given), 0))


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
