"""Convolutions (cross-correlations, as everybody calls so) as matrix products over windows.

The windows of a few images at a time are copied into the columns of a matrix that stays in the
cache; one product with the kernels gives all their outputs (Chellapilla, Puri and Simard, "High
performance convolutional neural networks for document processing", 2006). The gradient of the
input is the same walked backwards, and a transposed convolution is another one's input gradient.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from itertools import product as pairs
from typing import Any, NamedTuple, TypeAlias

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, computing_dtype, is_on_gpu, namespace_of
from fp16sim.events import observed
from fp16sim.kernels import product
from fp16sim.kernels.fused.source import STORAGE

# Columns of so many bytes at a time: they are written once and read once, from the cache.
COLUMN_BYTES = 2**21
# A GPU wants few and large products; so much of its memory they may take.
GPU_COLUMN_BYTES = 2**29

Pair: TypeAlias = tuple[int, int]


class Geometry(NamedTuple):
    """How windows lie on the input; each a pair (rows, columns)."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> Pair:
        """How many windows there are along each axis of an input of this size."""
        axes = zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        rows, columns = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)
        return rows, columns

    def turned(
        self, kernel: Sequence[int], output: Sequence[int], size: Sequence[int]
    ) -> Geometry | None:
        """How turned kernels lie on the output's gradient to give the input's; None: not so."""
        axes = zip(kernel, self.padding, self.dilation, strict=True)
        rows, columns = (d * (k - 1) - p for k, p, d in axes)
        back = self._replace(padding=(rows, columns))
        fits = self.stride == (1, 1) and min(rows, columns) >= 0
        return back if fits and back.output_size(output, kernel) == tuple(size) else None

    def taps(self, kernel: Sequence[int], output: Sequence[int]) -> Iterator[tuple[int, int, Any]]:
        """For every element of the kernel: its place, and the padded input's values it meets."""
        for i, j in pairs(*map(range, kernel)):
            axes = zip((i, j), output, self.stride, self.dilation, strict=True)
            yield i, j, (..., *(slice(t * d, t * d + s * (n - 1) + 1, s) for t, n, s, d in axes))


@primitive(multiplies=True)
def conv2d(x: Array, weight: Array, *bias: Array, geometry: Geometry, multiply: Any) -> Any:
    """Correlates x (N, in, H, W) with weight (out, in / groups, rows, columns), plus bias."""
    output = geometry.output_size(x.shape[2:], weight.shape[2:])
    y = forward(x, weight, output, geometry, multiply, *bias)
    return y, (x, weight, bool(bias), geometry, multiply)


@conv2d.backward
def _(g: Array, x: Array, weight: Array, has_bias: bool, geometry: Geometry, multiply: Any) -> Any:
    of_input = lambda: of_inputs(g, weight, x.shape, geometry, multiply)
    of_weight = lambda: of_weights(g, x, weight.shape, geometry, multiply)
    of_bias = lambda: g.sum(axis=(0, 2, 3), dtype=computing_dtype(g))
    return (of_input, of_weight, of_bias) if has_bias else (of_input, of_weight)


@primitive(multiplies=True)
def conv_transpose2d(
    x: Array, weight: Array, *bias: Array, geometry: Geometry, size: Pair, multiply: Any
) -> Any:
    """The input gradient of a convolution with weight (in, out / groups, rows, columns).

    size: of the output's rows and columns, which the strides do not determine.
    """
    shape = (len(x), weight.shape[1] * geometry.groups, *size)
    y = of_inputs(x, weight, shape, geometry, multiply, *bias)
    return y, (x, weight, bool(bias), geometry, multiply)


@conv_transpose2d.backward
def _(g: Array, x: Array, weight: Array, has_bias: bool, geometry: Geometry, multiply: Any) -> Any:
    of_input = lambda: forward(g, weight, x.shape[2:], geometry, multiply)
    of_weight = lambda: of_weights(x, g, weight.shape, geometry, multiply)
    of_bias = lambda: g.sum(axis=(0, 2, 3), dtype=computing_dtype(g))
    return (of_input, of_weight, of_bias) if has_bias else (of_input, of_weight)


def forward(
    x: Array,
    weight: Array,
    output: Sequence[int],
    geometry: Geometry,
    multiply: Any,
    *bias: Array,
) -> Array:
    """Input (N, in, H, W) and weight (out, in / groups, rows, columns) to output (N, out, ...).

    In the dtype that computes; in the one that keeps it where kernels round, as below.
    """
    kernel = weight.shape[2:]
    kernels = _by_group(weight, geometry.groups)
    narrow = _rounds_itself(x, multiply)
    size = (len(x), *kernels.shape[:2], output[0] * output[1])
    y = namespace_of(x).empty(size, x.dtype if narrow else computing_dtype(x))
    if narrow:
        for b in bias:
            y[...] = b.reshape(*kernels.shape[:2], 1)
    for block, columns in _columns(x, kernel, output, geometry, whole=False):
        if multiply is product:
            product(kernels, columns, out=y[block], onto=narrow and bool(bias))
        else:
            y[block] = multiply(kernels, columns)
    outputs: Array = y.reshape(len(x), weight.shape[0], *output)
    if not narrow:
        for b in bias:
            outputs += b.reshape(-1, 1, 1)
    return outputs


def of_inputs(
    g: Array,
    weight: Array,
    shape: tuple[int, ...],
    geometry: Geometry,
    multiply: Any,
    *bias: Array,
) -> Array:
    """The gradient of the input, which has this shape, from that of the output (N, out, ...).

    Plus a bias, if it is a transposed convolution's output.

    With stride 1 it is a convolution of the output's gradient with the kernels turned round, which
    is quicker unless there are many more outputs than inputs. Otherwise columns are computed, and
    added to the windows they stand for. An accumulator of the user's choice must see each sum as a
    whole, and so gets the first way, with the gradient spread out for other strides.
    """
    xp, kernel = namespace_of(g), weight.shape[2:]
    whole = multiply is not product
    if whole and geometry.stride != (1, 1):
        g, geometry = _spread(g, kernel, shape[2:], geometry)
    output = g.shape[2:]
    back = geometry.turned(kernel, output, shape[2:])
    if back is not None and (whole or g.shape[1] <= 2 * shape[1]):
        return forward(g, _turned(weight, geometry.groups), shape[2:], back, multiply, *bias)
    images, channels = shape[:2]
    kernels = _by_group(weight, geometry.groups).swapaxes(1, 2)
    slopes = _flat(g, geometry.groups)
    places = list(geometry.taps(kernel, output))
    taps = channels * len(places)
    blocks = _blocks(images, taps * slopes.shape[3] * computing_dtype(g).itemsize, g)
    if _rounds_itself(g, multiply):
        x: Array = xp.empty(shape, g.dtype)
        for block in blocks:  # every value is the sum of its copies, which a GPU fetches
            columns = multiply(kernels, slopes[block])
            _gpu().col2im(columns, x[block], kernel, *geometry[:3], *bias)
        return x
    (top, left), (height, width) = geometry.padding, shape[2:]
    size = (images, channels, height + 2 * top, width + 2 * left)
    padded = xp.zeros(size, computing_dtype(g))
    for block in blocks:
        columns = multiply(kernels, slopes[block])
        columns = columns.reshape(len(columns), channels, *kernel, *output)
        for i, j, window in places:
            padded[block][window] += columns[:, :, i, j]
    inside: Array = padded[:, :, top : top + height, left : left + width]
    for b in bias:
        inside += b.reshape(-1, 1, 1)
    return inside


def of_weights(
    g: Array, x: Array, shape: tuple[int, ...], geometry: Geometry, multiply: Any
) -> Array:
    """The gradient of the weight, which has this shape, from that of the output (N, out, ...)."""
    groups, output = geometry.groups, g.shape[2:]
    # An accumulator of the user's choice must see each sum as a whole; float32 may add by blocks.
    whole = multiply is not product
    total: Any = None
    for block, columns in _columns(x, shape[2:], output, geometry, whole):
        slopes = _flat(g[block], groups)
        if whole:  # all windows side by side: (groups, out, windows) @ (groups, windows, taps)
            slopes, columns = (
                part.transpose(1, 2, 0, 3).reshape(1, groups, part.shape[2], -1)
                for part in (slopes, columns)
            )
        part = multiply(slopes, columns.swapaxes(2, 3)).sum(axis=0)
        total = part if total is None else total + part
    if total is None:  # no images
        total = namespace_of(g).zeros(shape, computing_dtype(g))
    weights: Array = total.reshape(shape)
    return weights


def _by_group(weight: Array, groups: int) -> Array:
    """Kernels (out, in / groups, rows, columns) as matrices (groups, out / groups, taps)."""
    return weight.reshape(groups, len(weight) // groups, math.prod(weight.shape[1:]))


def _turned(weight: Array, groups: int) -> Array:
    """Kernels (out, in / groups, ...) turned by half a turn, as (in, out / groups, ...)."""
    split = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    turned = split.swapaxes(1, 2)[..., ::-1, ::-1]
    return turned.reshape(groups * turned.shape[1], *turned.shape[2:])


def _spread(
    g: Array, kernel: Sequence[int], size: Sequence[int], geometry: Geometry
) -> tuple[Array, Geometry]:
    """The output's gradient with zeros where a stride of 1 would have had outputs, too."""
    close = geometry._replace(stride=(1, 1))
    spread = namespace_of(g).zeros((*g.shape[:2], *close.output_size(size, kernel)), g.dtype)
    rows, columns = ((n - 1) * s + 1 for n, s in zip(g.shape[2:], geometry.stride, strict=True))
    spread[:, :, : rows : geometry.stride[0], : columns : geometry.stride[1]] = g
    return spread, close


def _flat(images: Array, groups: int) -> Array:
    """Images (N, channels, H, W) as (N, groups, channels / groups, H W)."""
    count, channels, height, width = images.shape
    return images.reshape(count, groups, channels // groups, height * width)


def _gpu() -> Any:
    return importlib.import_module("fp16sim.kernels.fused.gpu")


def _has_kernels(x: Array) -> bool:
    return is_on_gpu(x) and x.dtype.name in STORAGE


def _rounds_itself(x: Array, multiply: Any) -> bool:
    """Whether kernels write results rounded: nobody wants to see what they were before."""
    return _has_kernels(x) and multiply is product and not observed()


def _blocks(images: int, image_bytes: int, like: Array, whole: bool = False) -> Iterator[slice]:
    """Slices of a few images each."""
    most = GPU_COLUMN_BYTES if is_on_gpu(like) else COLUMN_BYTES
    step = images if whole else max(1, most // max(image_bytes, 1))
    for start in range(0, images, max(step, 1)):
        yield slice(start, start + step)


def _columns(
    x: Array, kernel: Sequence[int], output: Sequence[int], geometry: Geometry, whole: bool
) -> Iterator[tuple[slice, Array]]:
    """Blocks of images, and their windows (images, groups, taps, windows), in one scratch array."""
    xp, groups = namespace_of(x), geometry.groups
    images, channels, height, width = x.shape
    (top, left), windows = geometry.padding, output[0] * output[1]
    same_size = tuple(output) == (height, width) and geometry.padding == (0, 0)
    direct = tuple(kernel) == (1, 1) and geometry.stride == (1, 1) and same_size
    taps = channels * kernel[0] * kernel[1]
    places = list(geometry.taps(kernel, output))
    scratch: Any = None
    padded: Any = None
    for block in _blocks(images, taps * windows * x.dtype.itemsize, x, whole or direct):
        part = x[block]
        if direct:
            yield block, _flat(part, groups)
            continue
        if _has_kernels(x):
            yield block, _gpu().im2col(part, kernel, *geometry)
            continue
        if scratch is None:
            scratch = xp.empty((len(part), channels, *kernel, *output), x.dtype)
            padded = xp.zeros((len(part), channels, height + 2 * top, width + 2 * left), x.dtype)
        padded[: len(part), :, top : top + height, left : left + width] = part
        columns = scratch[: len(part)]
        for i, j, window in places:
            columns[:, :, i, j] = padded[: len(part)][window]
        yield block, columns.reshape(len(part), groups, taps // groups, windows)
