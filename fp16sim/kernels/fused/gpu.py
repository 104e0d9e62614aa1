"""Launchers: CuPy arrays in fp16, bf16 or fp32 in, new ones out if none to write to is given.

What is read is taken as C-contiguous, and copied if it is not. What a row is, is said by shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import cupy
import numpy as np

from fp16sim.backend import Array, address
from fp16sim.kernels import cuda
from fp16sim.kernels.fused import elementwise, rows, source, sums, windows
from fp16sim.kernels.fused.source import Size

#: rows and columns
Pair = tuple[int, int]

ADDRESS_OF_NOTHING = np.uint64(0)


@cache
def kernel(name: str, *parts: str, **types: str) -> Any:
    """A kernel of the module of these parts, with the dtypes that its types stand for."""
    return cuda.kernel(source.code(*parts, **types), name)


def type_of(x: Array) -> str:
    """The dtype's name. Raises TypeError for one that is no storage type."""
    name = str(x.dtype.name)
    if name not in source.STORAGE:
        raise TypeError(f"arrays must be in {', '.join(source.STORAGE)}, got one in {name}")
    return name


def launch(function: Any, geometry: tuple[Size, Size], *arguments: Any) -> None:
    """Integers are long long and real numbers float, as all kernels here take them."""
    passed: list[Any] = []
    for argument in arguments:
        match argument:
            case None:
                passed.append(ADDRESS_OF_NOTHING)
            case int():
                passed.append(np.int64(argument))
            case float():
                passed.append(np.float32(argument))
            case _:
                passed.append(argument)
    function(*geometry, tuple(passed))


def contiguous(*arrays: Array) -> list[Array]:
    """The arrays, or C-contiguous copies. Raises TypeError if shapes or dtypes differ."""
    shape, dtype = arrays[0].shape, arrays[0].dtype
    for x in arrays[1:]:
        if x.shape != shape or x.dtype != dtype:
            raise TypeError(f"expected {dtype} {shape} as the first, got {x.dtype} {x.shape}")
    # CuPy's ascontiguousarray gives arrays without axes one.
    return [x if x.flags.c_contiguous else cupy.ascontiguousarray(x) for x in arrays]


def _packs(*arrays: Array) -> int:
    """How many whole packs the arrays have; none unless all of them begin on 16 bytes."""
    aligned = all(address(x) % 16 == 0 for x in arrays)
    return arrays[0].nbytes // 16 if aligned else 0


def at_once(length: int, *arrays: Array) -> int:
    """How many numbers a thread may move at once: 16 bytes of them if runs of this length allow."""
    number = 16 // arrays[0].itemsize
    fits = length % number == 0 and all(address(x) % 16 == 0 for x in arrays)
    return number if fits else 1


def forward(name: str, x: Array) -> Array:
    """A function of every value; name: of ``elementwise.FUNCTIONS``."""
    return _elementwise("forward", elementwise.kernels(name), x)


def backward(name: str, g: Array, saved: Array) -> Array:
    """The gradient of its input; saved: x or the stored y, as ``elementwise.FUNCTIONS`` says."""
    return _elementwise("backward", elementwise.kernels(name), g, saved)


def add(x: Array, y: Array) -> Array:
    """x + y of one shape and storage type."""
    return _elementwise("add", elementwise.ADD, x, y)


def _elementwise(name: str, text: str, *arrays: Array) -> Array:
    arrays = tuple(contiguous(*arrays))
    out: Array = cupy.empty_like(arrays[0])
    function = kernel(name, source.PACK, text, T=type_of(out))
    packs = _packs(*arrays, out)
    each = max(1, out.size // max(packs, 1)) if packs else 1
    if out.size:
        launch(function, source.over(out.size, each), *arrays, out, out.size, packs)
    return out


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """The values in another storage type, rounded to nearest even."""
    (x,) = contiguous(x)
    out: Array = cupy.empty(x.shape, dtype)
    if out.size:
        aligned = all(address(array) % (8 * array.itemsize) == 0 for array in (x, out))
        packs = x.size // 8 if aligned else 0
        function = kernel("cast", source.PACK, elementwise.CAST, T=type_of(x), S=type_of(out))
        launch(function, source.over(x.size, 8 if packs else 1), x, out, x.size, packs)
    return out


def softmax(x: Array, axis: int = -1) -> Array:
    """Along an axis."""
    return _along("softmax", axis, x)


def softmax_backward(g: Array, y: Array, axis: int = -1) -> Array:
    """From the stored softmax y."""
    return _along("softmax_backward", axis, g, y)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """Along an axis."""
    return _along("log_softmax", axis, x)


def log_softmax_backward(g: Array, y: Array, axis: int = -1) -> Array:
    """From the stored log softmax y."""
    return _along("log_softmax_backward", axis, g, y)


def _along(name: str, axis: int, *arrays: Array) -> Array:
    arrays = tuple(contiguous(*arrays))
    out: Array = cupy.empty_like(arrays[0])
    if out.size:
        lie, geometry, sizes = _rows_of(out.shape, axis)
        launch(kernel(name, lie, rows.SOFTMAX, T=type_of(out)), geometry, *arrays, out, *sizes)
    return out


def _rows_of(
    shape: tuple[int, ...], axis: int
) -> tuple[str, tuple[Size, Size], tuple[int, int, int]]:
    """For rows along an axis: the text of how they lie, geometry, and rows, width and inner."""
    width, inner = shape[axis], math.prod(shape[axis % len(shape) + 1 :])
    count = math.prod(shape) // width
    if inner == 1:
        return source.ROWS, source.of_rows(count, width), (count, width, inner)
    return source.APART, source.of_threads(count), (count, width, inner)


def cross_entropy(
    x: Array, target: Array, ignored: int = -100, smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Each loss (N, ...), and statistics (2, N, ...) for backward; both in fp32, nothing reduced.

    x: logits (N, C, ...). target: int64 (N, ...); where it is ``ignored`` the loss is 0, and where
    it is no class, NaN. The statistics add up to log Σ e^x: maximum, and the rest.
    """
    (x,), (target,) = contiguous(x), contiguous(target)
    _check_targets(x, target)
    losses: Array = cupy.empty(target.shape, np.float32)
    statistics: Array = cupy.empty((2, *target.shape), np.float32)
    if losses.size:
        function, geometry, sizes = _of_classes("cross_entropy", x)
        arguments = (x, target, losses, *statistics, *sizes, ignored)
        launch(function, geometry, *arguments, 1 - smoothing, float(smoothing))
    return losses, statistics


def cross_entropy_backward(
    factor: Array,
    x: Array,
    target: Array,
    statistics: Array,
    ignored: int = -100,
    smoothing: float = 0.0,
) -> Array:
    """The gradient of the logits, of their dtype; factor: fp32 (N, ...), 0 for ignored targets.

    It is what each loss is multiplied by in the sum, times the gradient of that sum.
    """
    (x,), (target,), (factor,) = contiguous(x), contiguous(target), contiguous(factor)
    _check_targets(x, target)
    out: Array = cupy.empty_like(x)
    if out.size:
        function, geometry, sizes = _of_classes("cross_entropy_backward", x)
        arguments = (factor, x, target, *statistics, out, *sizes, ignored)
        launch(function, geometry, *arguments, 1 - smoothing, smoothing / x.shape[1])
    return out


def _of_classes(name: str, x: Array) -> tuple[Any, tuple[Size, Size], tuple[int, int, int]]:
    lie, geometry, sizes = _rows_of(x.shape, 1)
    return kernel(name, lie, rows.SOFTMAX, rows.CROSS_ENTROPY, T=type_of(x)), geometry, sizes


def _check_targets(x: Array, target: Array) -> None:
    shape = (x.shape[0], *x.shape[2:])
    if target.shape != shape or target.dtype != np.int64:
        raise TypeError(f"target must be int64 {shape}, got {target.dtype} {target.shape}")


def column_sums(x: Array) -> Array:
    """The sums over rows of x (rows, width), in fp32."""
    (x,) = contiguous(x)
    count, width = x.shape
    parts, part = sums.parts_of(count)
    of_parts: Array = cupy.empty((1, parts, width), np.float32)
    out: Array = cupy.zeros((1, width), np.float32)
    if x.size:
        geometry = (-(-width // 32), parts), (32, 8)
        function = kernel("column_sums", sums.COLUMNS, T=type_of(x))
        launch(function, geometry, x, of_parts, count, part, width)
        fold(of_parts, out)
    total: Array = out[0]
    return total


def fold(of_parts: Array, out: Array) -> None:
    """The sums over parts of (kinds, parts, width) into out (kinds, width); both in fp32."""
    kinds, parts, width = of_parts.shape
    geometry = (-(-kinds * width // 128),), (128,)
    launch(kernel("fold", sums.FOLD), geometry, of_parts, out, kinds, parts, width)


def im2col(
    x: Array, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int = 1
) -> Array:
    """x (N, C, H, W) as (N, groups, C / groups · rows · columns of the kernel, windows)."""
    (x,) = contiguous(x)
    images, channels, *size = x.shape
    axes = _axes(size, kernel_size, stride, padding, dilation)
    taps, places = math.prod(kernel_size), math.prod(axis.output for axis in axes)
    shape = (images, groups, channels // groups * taps, places)
    out: Array = cupy.empty(shape, x.dtype)
    if out.size:
        number = at_once(places, out)
        geometry = source.of_planes(images * channels * taps, places // number)
        function = _of_windows("im2col", x, number)
        launch(function, geometry, x, out, *axes[0], *axes[1])
    return out


def col2im(
    columns: Array,
    out: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    bias: Array | None = None,
) -> None:
    """The transpose of ``im2col``: each pixel of ``out`` (N, C, H, W) is the sum of its copies.

    columns: fp32. They are added up in the order of the kernel's taps, then the channel's bias, if
    there is one, and rounded once.
    """
    (columns,) = contiguous(columns)
    if bias is not None:
        (bias,) = contiguous(bias.astype(out.dtype, copy=False))
    images, channels, *size = out.shape
    axes = _axes(size, kernel_size, stride, padding, dilation)
    places = math.prod(kernel_size) * math.prod(axis.output for axis in axes)
    if columns.size != images * channels * places or columns.dtype != np.float32:
        raise ValueError(
            f"columns {columns.shape} of {columns.dtype} are not those of images {out.shape}"
        )
    if out.size:
        geometry = source.of_planes(images * channels, math.prod(size))
        function = _of_windows("col2im", out)
        launch(function, geometry, columns, bias, out, channels, *axes[0], *axes[1])


def max_pool(x: Array, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """The largest value of each window of x (N, C, H, W); NaN wins."""
    (x,) = contiguous(x)
    images, channels, *size = x.shape
    axes = _axes(size, kernel_size, stride, padding, dilation)
    out: Array = cupy.empty((images, channels, *(axis.output for axis in axes)), x.dtype)
    if out.size:
        geometry = source.of_planes(images * channels, math.prod(out.shape[2:]))
        function = _of_windows("max_pool", x)
        launch(function, geometry, x, out, *axes[0], *axes[1])
    return out


def max_pool_backward(
    g: Array, x: Array, y: Array, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """The gradient of x: each window's goes to the first of its largest values y."""
    (x,), (g, y) = contiguous(x), contiguous(g, y)
    axes = _axes(x.shape[2:], kernel_size, stride, padding, dilation)
    out: Array = cupy.empty_like(x)
    if out.size:
        geometry = source.of_planes(math.prod(x.shape[:2]), math.prod(x.shape[2:]))
        function = _of_windows("max_pool_backward", x)
        launch(function, geometry, g, x, y, out, *axes[0], *axes[1])
    return out


def _of_windows(name: str, x: Array, number: int = 1) -> Any:
    return kernel(
        name, source.PACK, source.at_once(number), source.PLANES, windows.WINDOWS, T=type_of(x)
    )


class _Axis(NamedTuple):
    """The fields of the kernels' ``struct Axis``."""

    size: int
    kernel: int
    output: int
    stride: int
    padding: int
    dilation: int


def _axes(
    size: Sequence[int], taps: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[_Axis, _Axis]:
    fields = zip(size, taps, stride, padding, dilation, strict=True)
    h, w = (
        _Axis(n, k, max(0, (n + 2 * p - d * (k - 1) - 1) // s + 1), s, p, d)
        for n, k, s, p, d in fields
    )
    return h, w
