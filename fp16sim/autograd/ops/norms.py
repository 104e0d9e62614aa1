"""Normalisations: single primitives. Statistics stay in the carrier; only the result is rounded."""

from __future__ import annotations

import math
from string import ascii_letters
from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, is_on_gpu, namespace_of

Axes = tuple[int, ...]


def _centred(x: Array, axes: Axes) -> tuple[Array, Array, Array]:
    """x - mean over axes, the mean, and the mean square of the difference."""
    mean = x.mean(axis=axes, keepdims=True)
    difference = x - mean
    return difference, mean, _mean_product(difference, difference, axes)


def _normal(x: Array, axes: Axes, eps: float) -> tuple[Array, Array]:
    """(x - mean) · scale with scale = 1 / √(var + eps), and the scale."""
    normal, _, variance = _centred(x, axes)
    scale = 1 / namespace_of(x).sqrt(variance + x.dtype.type(eps))
    normal *= scale
    return normal, scale


def _of_normal(h: Array, normal: Array, scale: Array, axes: Axes) -> Array:
    """From the gradient of the normalised values to that of the values."""
    slope = normal * -_mean_product(h, normal, axes)
    slope += h
    slope -= h.mean(axis=axes, keepdims=True)
    slope *= scale
    return slope


def _mean_product(x: Array, y: Array, axes: Axes) -> Array:
    """The mean of x·y over axes, which stay with size 1."""
    reduced = {axis % x.ndim for axis in axes}
    kept = tuple(i for i in range(x.ndim) if i not in reduced)
    count = math.prod(x.shape[i] for i in reduced)
    total = _sum_product(x, y, kept)
    shape = [1 if i in reduced else size for i, size in enumerate(x.shape)]
    mean: Array = total.reshape(shape) / x.dtype.type(count)
    return mean


# einsum needs no temporary array, but adds one after the other: runs of so many at a time.
RUN = 2**12


def _sum_product(x: Array, y: Array, kept: Axes) -> Array:
    """The sum of x·y over all axes but those kept; in runs, whose sums NumPy adds pairwise."""
    if is_on_gpu(x):  # whose einsum multiplies matrices of one row
        alone: Array = (x * y).sum(axis=tuple(i for i in range(x.ndim) if i not in kept))
        return alone
    letters = ascii_letters[: x.ndim]
    last = x.shape[-1] if x.ndim else 0
    if x.ndim - 1 not in kept and last > RUN:
        if cut := last % RUN:
            whole = _sum_product(x[..., :-cut], y[..., :-cut], kept)
            return whole + _sum_product(x[..., -cut:], y[..., -cut:], kept)
        x, y = (part.reshape(*part.shape[:-1], last // RUN, RUN) for part in (x, y))
        letters += "Z"
    # The last axis of those that are summed up is added by einsum, with SIMD; the others after.
    run = x.ndim - 1 if x.ndim - 1 not in kept else max(set(range(x.ndim)) - set(kept))
    rest = letters[:run] + letters[run + 1 :]
    runs = namespace_of(x).einsum(f"{letters},{letters}->{rest}", x, y)
    left = tuple(rest.index(letters[i]) for i in range(x.ndim) if i != run and i not in kept)
    total: Array = runs.sum(axis=left) if left else runs
    return total


@primitive
def layer_norm(x: Array, *parameters: Array, axes: Axes, eps: float) -> Any:
    """(x - mean) / √(var + eps) over the last axes, times weight, plus bias, if these are given."""
    normal, scale = _normal(x, axes, eps)
    return _scaled(normal, parameters), (normal, scale, parameters, axes)


def _scaled(normal: Array, parameters: tuple[Array, ...]) -> Array:
    """normal · weight + bias, as far as these are given."""
    # A view: what backward reads is not what is rounded and stored.
    y = normal * parameters[0] if parameters else normal.view()
    if len(parameters) == 2:
        y += parameters[1]
    return y


@layer_norm.backward
def _(g: Array, normal: Array, scale: Array, parameters: tuple[Array, ...], axes: Axes) -> Any:
    of_input = lambda: _of_normal(g * parameters[0] if parameters else g, normal, scale, axes)
    return (of_input, lambda: g * normal, lambda: g)[: 1 + len(parameters)]


@primitive
def rms_norm(x: Array, *weight: Array, axes: Axes, eps: float) -> Any:
    """x / √(mean(x²) + eps) over the last axes, times weight, if given."""
    scale = 1 / namespace_of(x).sqrt(_mean_product(x, x, axes) + x.dtype.type(eps))
    normal = x * scale
    return _scaled(normal, weight), (normal, scale, weight, axes)


@rms_norm.backward
def _(g: Array, normal: Array, scale: Array, weight: tuple[Array, ...], axes: Axes) -> Any:
    def of_input() -> Array:
        h = g * weight[0] if weight else g
        slope: Array = (h - normal * _mean_product(h, normal, axes)) * scale
        return slope

    return (of_input, lambda: g * normal)[: 1 + len(weight)]


@primitive
def group_norm(x: Array, *parameters: Array, groups: int, eps: float) -> Any:
    """Normalises x (N, channels, ...) in groups of channels; weight, bias (channels,) if given."""
    grouped = x.reshape(len(x), groups, -1)
    normal, scale = _normal(grouped, (2,), eps)
    shape = (-1, *(1,) * (x.ndim - 2))
    parameters = tuple(part.reshape(shape) for part in parameters)
    y = _scaled(normal.reshape(x.shape), parameters)
    return y, (normal, scale, parameters)


@group_norm.backward
def _(g: Array, normal: Array, scale: Array, parameters: tuple[Array, ...]) -> Any:
    others = (0, *range(2, g.ndim))

    def of_input() -> Array:
        h = g * parameters[0] if parameters else g
        return _of_normal(h.reshape(normal.shape), normal, scale, (2,)).reshape(g.shape)

    of_weight = lambda: (g * normal.reshape(g.shape)).sum(axis=others)
    return (of_input, of_weight, lambda: g.sum(axis=others))[: 1 + len(parameters)]


@primitive(mixed=True)
def batch_norm(
    x: Array, *parameters: Array, eps: float, fixed: Any = None, tell: Any = None
) -> Any:
    """Normalises each channel of x (N, channels, ...); weight, bias (channels,) if given.

    fixed: the (mean, var) to use; None for the batch's own, which are told to ``tell``.
    """
    axes = (0, *range(2, x.ndim))
    shape = (1, -1, *(1,) * (x.ndim - 2))
    parameters = tuple(part.reshape(shape) for part in parameters)
    if fixed is None:
        normal, mean, variance = _centred(x, axes)
        tell(mean.reshape(-1), variance.reshape(-1))
    else:
        mean, variance = (part.reshape(shape) for part in fixed)
        normal = x - mean
    scale = 1 / namespace_of(x).sqrt(variance + x.dtype.type(eps))
    normal *= scale
    return _scaled(normal, parameters), (normal, scale, parameters, fixed is None)


@batch_norm.backward
def _(g: Array, normal: Array, scale: Array, parameters: tuple[Array, ...], own: bool) -> Any:
    axes = (0, *range(2, g.ndim))

    def of_input() -> Array:
        h = g * parameters[0] if parameters else g
        return _of_normal(h, normal, scale, axes) if own else h * scale

    of_weight = lambda: _sum_product(g, normal, (1,))
    return (of_input, of_weight, lambda: g.sum(axis=axes))[: 1 + len(parameters)]
