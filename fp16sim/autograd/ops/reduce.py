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
