"""Primitives that sum over axes. They accumulate in the carrier and round the result once."""

from __future__ import annotations

import math
from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of

Axes = int | tuple[int, ...] | None


def _spread(g: Array, shape: tuple[int, ...], axis: Axes, keepdims: bool) -> Array:
    """A gradient of the reduced shape, repeated over the axes that were reduced."""
    xp = namespace_of(g)
    if axis is not None and not keepdims:
        g = xp.expand_dims(g, axis)
    spread: Array = xp.broadcast_to(g, shape)
    return spread


@primitive
def sum(x: Array, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Sum over ``axis`` (all axes if None)."""
    return x.sum(axis=axis, keepdims=keepdims), (x.shape, axis, keepdims)


@sum.backward
def _(g: Array, shape: tuple[int, ...], axis: Axes, keepdims: bool) -> Any:
    return (_spread(g, shape, axis, keepdims),)


@primitive
def mean(x: Array, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Arithmetic mean over ``axis`` (all axes if None)."""
    total = x.sum(axis=axis, keepdims=keepdims)
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    count = x.dtype.type(math.prod(x.shape[one] for one in axes))
    return total / count, (x.shape, count, axis, keepdims)  # of nothing: 0 / 0 = NaN


@mean.backward
def _(g: Array, shape: tuple[int, ...], count: Any, axis: Axes, keepdims: bool) -> Any:
    return (_spread(g / count, shape, axis, keepdims),)


@primitive  # not exact: equal ones share the gradient
def max(x: Array, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """The largest value over ``axis`` (all if None). NaN wins."""
    return x.max(axis=axis, keepdims=keepdims), (x, 1, axis, keepdims)


@primitive  # not exact: equal ones share the gradient
def min(x: Array, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """The smallest value over ``axis`` (all if None). NaN wins."""
    return x.min(axis=axis, keepdims=keepdims), (x, -1, axis, keepdims)


@max.backward
@min.backward
def _(g: Array, x: Array, sign: int, axis: Axes, keepdims: bool) -> Any:
    # Equal ones share the gradient, as in torch.amax.
    extreme = (sign * x).max(axis=axis, keepdims=True)
    chosen = (sign * x == extreme).astype(x.dtype)
    return (_spread(g, x.shape, axis, keepdims) * (chosen / chosen.sum(axis=axis, keepdims=True)),)


@primitive
def var(x: Array, *, axis: Axes = None, keepdims: bool = False, correction: int = 1) -> Any:
    """Σ(x - mean)² / (n - correction) over ``axis`` (all if None)."""
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    size = math.prod(x.shape[one] for one in axes)
    difference = x - x.sum(axis=axis, keepdims=True) / x.dtype.type(size)
    count = x.dtype.type(size - correction if size > correction else 0)  # of nothing: 0 / 0 = NaN
    value = (difference * difference).sum(axis=axis, keepdims=keepdims) / count
    return value, (difference, count, axis, keepdims)


@var.backward
def _(g: Array, difference: Array, count: Any, axis: Axes, keepdims: bool) -> Any:
    return (_spread(g, difference.shape, axis, keepdims) * difference * (2 / count),)


@primitive
def logsumexp(x: Array, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """log Σ e^x over ``axis`` (all if None), without overflow."""
    xp = namespace_of(x)
    largest = x.max(axis=axis, keepdims=True)
    shift = xp.where(xp.isfinite(largest), largest, largest.dtype.type(0))
    powers = xp.exp(x - shift)
    total = powers.sum(axis=axis, keepdims=True)
    value = xp.log(total) + shift
    kept = value if keepdims else value.squeeze(axis)
    return kept, (powers / total, axis, keepdims)


@logsumexp.backward
def _(g: Array, softmax: Array, axis: Axes, keepdims: bool) -> Any:
    return (_spread(g, softmax.shape, axis, keepdims) * softmax,)
