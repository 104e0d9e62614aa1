"""Primitives of several steps that a GPU runs as one kernel.

Inside they keep the carrier's precision; only what is stored is rounded: the last result.
"""

from __future__ import annotations

from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of

#: how a loss is reduced, as in PyTorch
REDUCTIONS = ("mean", "sum", "none")


@primitive(multiplies=True)
def linear(x: Array, weight: Array, *bias: Array, multiply: Any) -> Any:
    """x Wᵀ + b for x (..., in), W (out, in) and, if given, b (out,); b is added in the carrier."""
    y = multiply(x, weight.T)
    for b in bias:
        y += b
    return y, (x, weight, bool(bias), multiply)


@linear.backward
def _(g: Array, x: Array, weight: Array, has_bias: bool, multiply: Any) -> Any:
    rows = g.reshape(-1, g.shape[-1])
    of_input = lambda: multiply(g, weight)
    of_weight = lambda: multiply(rows.T, x.reshape(-1, x.shape[-1]))
    of_bias = lambda: rows.sum(axis=0)
    return (of_input, of_weight, of_bias) if has_bias else (of_input, of_weight)


def _reduced(losses: Array, reduction: str) -> tuple[Array, Any]:
    """The loss, and what each element's derivative is multiplied by."""
    if reduction == "none":
        return losses, 1.0
    if reduction == "sum":
        return losses.sum(), 1.0
    count = losses.dtype.type(losses.size)
    return losses.sum() / count, 1 / count  # of nothing: 0 / 0 = NaN


@primitive
def mse_loss(x: Array, target: Array, *, reduction: str = "mean") -> Any:
    """(x - target)², averaged over all elements."""
    difference = x - target
    loss, weight = _reduced(difference * difference, reduction)
    return loss, (difference, weight)


@mse_loss.backward
def _(g: Array, difference: Array, weight: Any) -> Any:
    gradient = (2 * weight) * g * difference
    return gradient, lambda: -gradient


@primitive
def cross_entropy(logits: Array, *, target: Array, reduction: str = "mean") -> Any:
    """-log softmax(logits)[target] for logits (N, classes) and integer target (N,)."""
    xp = namespace_of(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    rows = xp.arange(len(target))
    loss, weight = _reduced(-log_softmax[rows, target], reduction)
    return loss, (log_softmax, rows, target, weight)


@cross_entropy.backward
def _(g: Array, log_softmax: Array, rows: Array, target: Array, weight: Any) -> Any:
    gradient = namespace_of(g).exp(log_softmax)
    gradient[rows, target] -= 1
    return (gradient * (weight * g.reshape(-1, 1)),)


@primitive
def softmax(x: Array, *, axis: int) -> Any:
    """e^x / Σ e^x along an axis."""
    powers = namespace_of(x).exp(x - x.max(axis=axis, keepdims=True))
    y = powers / powers.sum(axis=axis, keepdims=True)
    return y, (y, axis)


@softmax.backward
def _(g: Array, y: Array, axis: int) -> Any:
    return (y * (g - (g * y).sum(axis=axis, keepdims=True)),)


@primitive
def log_softmax(x: Array, *, axis: int) -> Any:
    """x - log Σ e^x along an axis."""
    xp = namespace_of(x)
    shifted = x - x.max(axis=axis, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))
    return y, (y, axis)


@log_softmax.backward
def _(g: Array, y: Array, axis: int) -> Any:
    return (g - namespace_of(y).exp(y) * g.sum(axis=axis, keepdims=True),)
