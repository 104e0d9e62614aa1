"""Pooling and resampling of images (N, channels, H, W)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fp16sim.autograd.ops.conv import Geometry, Pair
from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, device_of, namespace_of, to_device


def _padded(x: Array, padding: Pair, value: float) -> Array:
    """x with a border."""
    if padding == (0, 0):
        return x
    (top, left), (height, width) = padding, x.shape[2:]
    size = (*x.shape[:2], height + 2 * top, width + 2 * left)
    padded: Array = namespace_of(x).full(size, value, x.dtype)
    padded[:, :, top : top + height, left : left + width] = x
    return padded


def _inside(padded: Array, padding: Pair) -> Array:
    """What is within the border."""
    (top, left), (height, width) = padding, padded.shape[2:]
    inside: Array = padded[:, :, top : height - top, left : width - left]
    return inside


@primitive  # not exact: where windows overlap, gradients are added
def max_pool2d(x: Array, *, kernel: Pair, geometry: Geometry) -> Any:
    """The largest value of each window; NaN wins."""
    xp = namespace_of(x)
    output = geometry.output_size(x.shape[2:], kernel)
    padded = _padded(x, geometry.padding, -np.inf)
    y = None
    for _, _, window in geometry.taps(kernel, output):
        y = padded[window].copy() if y is None else xp.maximum(y, padded[window], out=y)
    return y, (x, y, kernel, geometry)


@max_pool2d.backward
def _(g: Array, x: Array, y: Array, kernel: Pair, geometry: Geometry) -> Any:
    # To the first of equal ones, as in PyTorch.
    xp = namespace_of(g)
    padded = _padded(x, geometry.padding, -np.inf)
    inside = _padded(xp.ones(x.shape[2:], bool)[None, None], geometry.padding, False)
    slopes = xp.zeros(padded.shape, g.dtype)
    left = g
    for _, _, window in geometry.taps(kernel, y.shape[2:]):
        part = padded[window]
        found = ((part == y) | (part != part)) & inside[window]
        slopes[window] += xp.where(found, left, left.dtype.type(0))
        left = xp.where(found, left.dtype.type(0), left)
    return (_inside(slopes, geometry.padding),)


@primitive
def avg_pool2d(x: Array, *, kernel: Pair, geometry: Geometry, count_padding: bool) -> Any:
    """The mean of each window: of kernel values, or of those inside the input."""
    output = geometry.output_size(x.shape[2:], kernel)
    padded = _padded(x, geometry.padding, 0.0)
    y = namespace_of(x).zeros((*x.shape[:2], *output), x.dtype)
    for _, _, window in geometry.taps(kernel, output):
        y += padded[window]
    count: Any = x.dtype.type(kernel[0] * kernel[1])
    if geometry.padding != (0, 0) and not count_padding:
        ones = _padded(namespace_of(x).ones_like(x[:1, :1]), geometry.padding, 0.0)
        count = sum(ones[window] for _, _, window in geometry.taps(kernel, output))
    y /= count
    return y, (padded.shape, count, kernel, geometry)


@avg_pool2d.backward
def _(g: Array, shape: tuple[int, ...], count: Any, kernel: Pair, geometry: Geometry) -> Any:
    slopes, share = namespace_of(g).zeros(shape, g.dtype), g / count
    for _, _, window in geometry.taps(kernel, g.shape[2:]):
        slopes[window] += share
    return (_inside(slopes, geometry.padding),)


def _bins(size: int, count: int) -> list[slice]:
    """``count`` windows that cover an axis, of nearly the same size, as PyTorch cuts them."""
    return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


@primitive
def adaptive_avg_pool2d(x: Array, *, output: Pair) -> Any:
    """The means of output[0] x output[1] windows that cover the image."""
    bins = [_bins(size, count) for size, count in zip(x.shape[2:], output, strict=True)]
    y = namespace_of(x).empty((*x.shape[:2], *output), x.dtype)
    for i, rows in enumerate(bins[0]):
        for j, columns in enumerate(bins[1]):
            y[:, :, i, j] = x[:, :, rows, columns].mean(axis=(2, 3))
    return y, (x.shape, bins)


@adaptive_avg_pool2d.backward
def _(g: Array, shape: tuple[int, ...], bins: list[list[slice]]) -> Any:
    slopes = namespace_of(g).zeros(shape, g.dtype)
    for i, rows in enumerate(bins[0]):
        for j, columns in enumerate(bins[1]):
            window = slopes[:, :, rows, columns]
            window += g[:, :, i : i + 1, j : j + 1] / (window.shape[2] * window.shape[3])
    return (slopes,)


# An axis is resampled by taking, for every place of the output, two places of the input with
# weights that add up to one. Backward puts them back: repeats of a place make a round each.


def _positions(size: int, count: int, step: float, align_corners: bool) -> tuple[Any, Any, Any]:
    """For bilinear resampling: lower and upper place, and the weight of the upper."""
    places = np.arange(count, dtype=np.float64)
    if align_corners:
        places *= (size - 1) / (count - 1) if count > 1 else 0.0
    else:
        places = np.maximum((places + 0.5) * step - 0.5, 0.0)
    lower = np.minimum(places.astype(np.int64), size - 1)
    return lower, np.minimum(lower + 1, size - 1), places - lower


def _rounds(places: Any) -> list[tuple[Any, Any]]:
    """Cut sorted places of the input into lists without repeats, each with those of the output."""
    nth = np.arange(len(places)) - np.searchsorted(places, places)  # repeats before this one
    outputs = [np.flatnonzero(nth == n) for n in range(int(nth.max(initial=-1)) + 1)]
    return [(places[one], one) for one in outputs]


def _there(array: Any, like: Array) -> Array:
    """A small array of the host's beside another one."""
    return to_device(array, device_of(like))


def _along(axis: int, places: Any) -> tuple[Any, ...]:
    return (slice(None),) * axis + (places,)


def _resampled(x: Array, axis: int, positions: tuple[Any, Any, Any]) -> Array:
    xp = namespace_of(x)
    lower, upper, weight = positions
    shape = (-1,) + (1,) * (3 - axis)
    high = _there(weight.astype(x.dtype), x).reshape(shape)
    low = _there((1 - weight).astype(x.dtype), x).reshape(shape)
    y: Array = xp.take(x, _there(lower, x), axis=axis) * low
    y += xp.take(x, _there(upper, x), axis=axis) * high
    return y


def _put_back(g: Array, axis: int, size: int, positions: tuple[Any, Any, Any]) -> Array:
    xp = namespace_of(g)
    lower, upper, weight = positions
    slopes: Array = xp.zeros((*g.shape[:axis], size, *g.shape[axis + 1 :]), g.dtype)
    shape = (-1,) + (1,) * (3 - axis)
    for places, share in ((lower, 1 - weight), (upper, weight)):
        for into, out_of in _rounds(places):
            part = _there(share[out_of].astype(g.dtype), g).reshape(shape)
            taken = xp.take(g, _there(out_of, g), axis=axis)
            slopes[_along(axis, _there(into, g))] += taken * part
    return slopes


@primitive
def upsample_bilinear2d(
    x: Array, *, output: Pair, steps: tuple[float, float], align_corners: bool
) -> Any:
    """Images of another size: each value is interpolated along rows, then along columns.

    steps: how far neighbours of the output are apart in the input, in rows and in columns.
    """
    axes = zip(x.shape[2:], output, steps, strict=True)
    rows, columns = (_positions(*axis, align_corners) for axis in axes)
    y = _resampled(_resampled(x, 2, rows), 3, columns)
    return y, (x.shape, rows, columns)


@upsample_bilinear2d.backward
def _(g: Array, shape: tuple[int, ...], rows: Any, columns: Any) -> Any:
    return (_put_back(_put_back(g, 3, shape[3], columns), 2, shape[2], rows),)


@primitive
def upsample_nearest2d(x: Array, *, output: Pair, steps: tuple[float, float]) -> Any:
    """Images of another size: the value at row r of the output is that at floor(r · step)."""
    axes = zip(x.shape[2:], output, steps, strict=True)
    # In float32, as PyTorch does, in which r · step may round up to the next row.
    places = [
        np.minimum((np.arange(n, dtype=np.float32) * np.float32(step)).astype(np.int64), size - 1)
        for size, n, step in axes
    ]
    xp = namespace_of(x)
    rows = xp.take(x, _there(places[0], x), axis=2)
    return xp.take(rows, _there(places[1], x), axis=3), (x.shape, places)


@upsample_nearest2d.backward
def _(g: Array, shape: tuple[int, ...], places: list[Any]) -> Any:
    xp = namespace_of(g)
    for axis in (3, 2):
        slopes = xp.zeros((*g.shape[:axis], shape[axis], *g.shape[axis + 1 :]), g.dtype)
        for into, out_of in _rounds(places[axis - 2]):
            slopes[_along(axis, _there(into, g))] += xp.take(g, _there(out_of, g), axis=axis)
        g = slopes
    return (g,)
