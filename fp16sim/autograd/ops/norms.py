"""Normalisations: single primitives. Statistics stay in the carrier; only the result is rounded."""

from __future__ import annotations

from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of


@primitive
def layer_norm(x: Array, *parameters: Array, axes: tuple[int, ...], eps: float) -> Any:
    """(x - mean) / √(var + eps) over the last axes, times weight, plus bias, if these are given."""
    difference = x - x.mean(axis=axes, keepdims=True)
    variance = (difference * difference).mean(axis=axes, keepdims=True)
    scale = 1 / namespace_of(x).sqrt(variance + x.dtype.type(eps))
    normal = difference * scale
    y = normal * parameters[0] if parameters else normal
    if len(parameters) == 2:
        y = y + parameters[1]
    return y, (normal, scale, parameters, axes)


@layer_norm.backward
def _(g: Array, normal: Array, scale: Array, parameters: tuple[Array, ...], axes: Any) -> Any:
    def of_input() -> Array:
        h = g * parameters[0] if parameters else g
        mean = h.mean(axis=axes, keepdims=True)
        along = (h * normal).mean(axis=axes, keepdims=True)
        slope: Array = (h - mean - normal * along) * scale
        return slope

    return (of_input, lambda: g * normal, lambda: g)[: 1 + len(parameters)]


@primitive
def rms_norm(x: Array, *weight: Array, axes: tuple[int, ...], eps: float) -> Any:
    """x / √(mean(x²) + eps) over the last axes, times weight, if given."""
    square = (x * x).mean(axis=axes, keepdims=True)
    scale = 1 / namespace_of(x).sqrt(square + x.dtype.type(eps))
    normal = x * scale
    return normal * weight[0] if weight else normal, (normal, scale, weight, axes)


@rms_norm.backward
def _(g: Array, normal: Array, scale: Array, weight: tuple[Array, ...], axes: Any) -> Any:
    def of_input() -> Array:
        h = g * weight[0] if weight else g
        slope: Array = (h - normal * (h * normal).mean(axis=axes, keepdims=True)) * scale
        return slope

    return (of_input, lambda: g * normal)[: 1 + len(weight)]
