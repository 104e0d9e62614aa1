"""Launchers of normalisations: CuPy arrays in, new ones out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from fp16sim.backend import Array
from fp16sim.kernels.fused import gpu, norms, source, sums
from fp16sim.kernels.fused.gpu import contiguous, kernel, launch, type_of


class Normal(NamedTuple):
    """What a normalisation did: ``normalise`` makes one, and its backward reads it."""

    x: Array
    weight: Array | None
    #: fp32, one a row; no mean for RMS norm
    mean: Array | None
    rstd: Array
    groups: int
    inner: int


def layer_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> tuple[Array, Normal]:
    """Normalises rows x (..., width); weight, bias (width,) of one dtype: that of x, or fp32."""
    return _normalised(x, weight, bias, eps, True, x.shape[-1], 1, 1)


def rms_norm(x: Array, weight: Array | None = None, eps: float = 1e-5) -> tuple[Array, Normal]:
    """Divides rows x (..., width) by the root of their mean square; weight (width,), or fp32."""
    return _normalised(x, weight, None, eps, False, x.shape[-1], 1, 1)


def group_norm(
    x: Array, groups: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> tuple[Array, Normal]:
    """Normalises x (N, channels, ...) in groups of channels; weight, bias (channels,), or fp32."""
    inner = math.prod(x.shape[2:])
    width = x.shape[1] // groups * inner
    return _normalised(x, weight, bias, eps, True, width, groups, inner)


def _normalised(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    centred: bool,
    width: int,
    groups: int,
    inner: int,
) -> tuple[Array, Normal]:
    if not 0 < width < 2**31:
        raise ValueError(f"rows must have 1 to 2^31 - 1 values, got {width}")
    (x,) = contiguous(x)
    for part in (weight, bias):
        if part is not None and part.size * inner != width * groups:
            raise ValueError(f"weight and bias must have {width * groups // inner} values")
    weight, bias = (p if p is None else cupy.ascontiguousarray(p) for p in (weight, bias))
    count = x.size // width
    out: Array = cupy.empty_like(x)
    mean = cupy.empty(count, np.float32) if centred else None
    normal = Normal(x, weight, mean, cupy.empty(count, np.float32), groups, inner)
    if count:
        function = _norm("forward", normal, bias)
        arguments = (x, weight, bias, out, mean, normal.rstd, count, width, groups, inner)
        launch(function, source.of_rows(count, width), *arguments, float(eps))
    return out, normal


def _norm(name: str, normal: Normal, bias: Array | None = None, number: int = 1) -> Any:
    parameter = next((p for p in (normal.weight, bias) if p is not None), normal.x)
    if bias is not None and bias.dtype != parameter.dtype:
        raise TypeError(f"weight and bias must be alike, got {parameter.dtype} and {bias.dtype}")
    types = {"T": type_of(normal.x), "W": type_of(parameter)}
    text = norms.kernels(normal.mean is not None)
    return kernel(name, source.ROWS, source.PACK, source.at_once(number), text, **types)


def norm_backward(g: Array, normal: Normal) -> Array:
    """The gradient of x, of its dtype, from that of the result."""
    g, x = contiguous(g, normal.x)
    out: Array = cupy.empty_like(x)
    count = normal.rstd.size
    if count:
        width = x.size // count
        arguments = (g, x, normal.weight, normal.mean, normal.rstd, out, count, width)
        geometry = source.of_rows(count, width)
        launch(_norm("backward", normal), geometry, *arguments, normal.groups, normal.inner)
    return out


def norm_parameters_backward(g: Array, normal: Normal) -> Array:
    """Gradients (2, parameters) of weight and bias, in fp32; always the same bits, no atomics."""
    g, x = contiguous(g, normal.x)
    if not g.size:
        raise ValueError("g is empty: there is nothing to add up")
    groups, inner = normal.groups, normal.inner
    images = normal.rstd.size // groups
    width = g.size // images // inner
    parts, part = sums.parts_of(images)
    of_parts: Array = cupy.empty((2, parts, width), np.float32)
    out: Array = cupy.empty((2, width), np.float32)
    name, geometry, number = "columns", ((-(-width // 32), parts), (32, 8)), 1
    if inner > 1:
        name, geometry, number = "channels", ((width, parts), (256, 1)), gpu.at_once(inner, g, x)
    arrays = (g, x, normal.mean, normal.rstd)
    sizes = (images, part, width, groups, inner, groups)
    launch(_norm(name, normal, number=number), geometry, *arrays, *of_parts, *sizes)
    gpu.fold(of_parts, out)
    return out


class BatchNormal(NamedTuple):
    """What a batch normalisation did."""

    x: Array
    weight: Array | None
    #: fp32, one a channel; of the batch, or given
    mean: Array
    rstd: Array
    own: bool

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Images, channels, and values of a channel of an image."""
        images, width = self.x.shape[:2]
        return images, width, math.prod(self.x.shape[2:])


def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    fixed: tuple[Array, Array] | None = None,
) -> tuple[Array, BatchNormal, Array]:
    """Normalises channels of x (N, channels, ...); weight, bias (channels,) of one dtype, or fp32.

    fixed: mean and variance in fp32; None: the batch's. Returns the result, what was done, and the
    variance.
    """
    (x,) = contiguous(x)
    weight, bias = (p if p is None else cupy.ascontiguousarray(p) for p in (weight, bias))
    count = x.size // x.shape[1]
    if not 0 < count < 2**31:
        raise ValueError(f"channels must have 1 to 2^31 - 1 values, got {count}")
    if fixed is None:
        mean, _ = _moments(x, None, eps)
        variance, rstd = _moments(x, mean, eps)
    else:
        mean, variance = (cupy.ascontiguousarray(part.reshape(-1)) for part in fixed)
        rstd = 1 / cupy.sqrt(variance + np.float32(eps))
    normal = BatchNormal(x, weight, mean, rstd, fixed is None)
    out: Array = cupy.empty_like(x)
    images, width, inner = normal.sizes
    number = gpu.at_once(inner, x, out)
    function = _batch("apply", x, weight, bias, number=number)
    geometry = source.of_planes(images * width, inner // number)
    launch(function, geometry, x, weight, bias, mean, rstd, out, width, inner)
    return out, normal, variance


def batch_norm_parameters_backward(g: Array, normal: BatchNormal) -> Array:
    """Gradients (2, channels) of weight and bias, in fp32; always the same bits, no atomics."""
    g, x = contiguous(g, normal.x)
    images, width, inner = normal.sizes
    parts, part = sums.parts_of(images)
    of_parts: Array = cupy.empty((2, parts, width), np.float32)
    out: Array = cupy.empty((2, width), np.float32)
    arguments = (g, x, normal.mean, normal.rstd, *of_parts, images, part, width, width, inner, 0)
    function = _batch("channels", x, number=gpu.at_once(inner, g, x))
    launch(function, ((width, parts), (256, 1)), *arguments)
    gpu.fold(of_parts, out)
    return out


def batch_norm_backward(g: Array, normal: BatchNormal, slopes: Sequence[Array] | None) -> Array:
    """The gradient of x, of its dtype; slopes: as ``batch_norm_parameters_backward`` gives them.

    They are not read if the statistics were given.
    """
    g, x = contiguous(g, normal.x)
    out: Array = cupy.empty_like(x)
    images, width, inner = normal.sizes
    along, level = (None, None) if slopes is None or not normal.own else slopes
    arguments = (g, x, normal.weight, normal.mean, normal.rstd, along, level, out, width, inner)
    number = gpu.at_once(inner, g, x, out)
    geometry = source.of_planes(images * width, inner // number)
    function = _batch("apply_backward", x, normal.weight, number=number)
    launch(function, geometry, *arguments, float(x.size // width))
    return out


def _moments(x: Array, mean: Array | None, eps: float) -> tuple[Array, Array]:
    """Means of channels; given these, variances, and what differences are multiplied by."""
    images, width, inner = len(x), x.shape[1], math.prod(x.shape[2:])
    parts, part = sums.parts_of(images)
    of_parts: Array = cupy.empty((parts, width), np.float32)
    moments: Array = cupy.empty(width, np.float32)
    scales: Array = cupy.empty(width, np.float32)
    geometry = (width, parts), (256, 1)
    function = _batch("totals", x, number=gpu.at_once(inner, x))
    launch(function, geometry, x, mean, of_parts, images, part, width, inner)
    arguments = (of_parts, moments, scales, parts, width, float(x.size // width), float(eps))
    launch(_batch("settle", x), source.of_threads(width), *arguments)
    return moments, scales


def _batch(
    name: str,
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    number: int = 1,
) -> Any:
    parameter = next((p for p in (weight, bias) if p is not None), x)
    if bias is not None and bias.dtype != parameter.dtype:
        raise TypeError(f"weight and bias must be alike, got {parameter.dtype} and {bias.dtype}")
    types = {"T": type_of(x), "W": type_of(parameter)}
    texts = (source.PACK, source.at_once(number), source.PLANES, norms.kernels(True), norms.BATCH)
    return kernel(name, source.ROWS, *texts, **types)
