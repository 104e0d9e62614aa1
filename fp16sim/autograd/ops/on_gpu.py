"""Primitives that a GPU runs as few kernels, mostly one, from stored values to stored values.

Where values are kept natively these take the place of the array code in the other files, which
says what they mean: arithmetic in fp32, one rounding on store. What differs are the functions of
the GPU's own mathematics library (a last bit, now and then) and the order of sums. A forward
function returns None where its kernel does not fit; then the array code runs.
"""

from __future__ import annotations

import importlib
import math
from functools import partial
from typing import Any

import numpy as np

from fp16sim.autograd.ops import elementwise, functions, fused, losses, matmul, norms, pool, shape
from fp16sim.autograd.ops.conv import Geometry, Pair
from fp16sim.backend import Array, carried, namespace_of
from fp16sim.formats import Format
from fp16sim.kernels import product
from fp16sim.kernels.fused.elementwise import FUNCTIONS
from fp16sim.kernels.fused.source import SHORT, STORAGE


def _gpu() -> Any:
    return importlib.import_module("fp16sim.kernels.fused.gpu")


def _blocked() -> Any:
    return importlib.import_module("fp16sim.kernels.fused.attention")


def _normalise() -> Any:
    return importlib.import_module("fp16sim.kernels.fused.normalise")


# --- products, rounded by cuBLAS as it writes them -----------------------------------------------


def _rounded_product(x: Array, y: Array) -> Array:
    shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    return product(x, y, out=namespace_of(x).empty(shape, x.dtype))


def _matmul(x: Array, y: Array, *, multiply: Any) -> Any:
    return None if multiply is not product else (_rounded_product(x, y), (x, y))


def _of_factor(factor: Array, x: Array, y: Array) -> Array:
    """x @ y, the gradient of this factor of a product."""
    # If it was broadcast, its gradients are added up first, and rounded after that.
    whole = factor.ndim == max(x.ndim, y.ndim) and factor.shape[:-2] == x.shape[:-2] == y.shape[:-2]
    return _rounded_product(x, y) if whole else product(x, y)


def _of_matmul(g: Array, x: Array, y: Array) -> Any:
    of_x = lambda: _of_factor(x, g, y.swapaxes(-1, -2))
    of_y = lambda: _of_factor(y, x.swapaxes(-1, -2), g)
    return of_x, of_y


def _linear(x: Array, weight: Array, *bias: Array, multiply: Any) -> Any:
    if multiply is not product:
        return None
    y = namespace_of(x).empty((*x.shape[:-1], len(weight)), x.dtype)
    for b in bias:
        y[...] = b
    product(fused.as_rows(x), weight.T, out=fused.as_rows(y), onto=bool(bias))
    return y, (x, weight, bool(bias))


def _of_linear(g: Array, x: Array, weight: Array, has_bias: bool) -> Any:
    rows = fused.as_rows(g)
    of_input = lambda: _rounded_product(rows, weight).reshape(x.shape)
    of_weight = lambda: _rounded_product(rows.T, fused.as_rows(x))
    of_bias = lambda: _gpu().column_sums(rows)
    return (of_input, of_weight, of_bias) if has_bias else (of_input, of_weight)


def _attention(
    q: Array, k: Array, v: Array, *, allowed: Array | None, is_causal: bool, scale: float,
    fmt: Format, multiply: Any,
) -> Any:  # fmt: skip
    if multiply is not product:
        return None
    sight = _blocked().Sight(allowed, is_causal, scale)
    return _blocked().forward(q, k, v, sight), (q, k, v, sight)


def _of_attention(g: Array, q: Array, k: Array, v: Array, sight: Any) -> Any:
    return _blocked().backward(g, q, k, v, sight)


matmul.matmul.fuse(_matmul, _of_matmul)
fused.linear.fuse(_linear, _of_linear)
fused.scaled_dot_product_attention.fuse(_attention, _of_attention)


# --- values that are moved about, as they are kept ----------------------------------------------


def _of_index(g: Array, size: tuple[int, ...], key: Any) -> Any:
    return shape.of_index(g if shape.picks_once(key) else carried(g), size, key)


shape.index.fuse(lambda x, *, key: (x[key], (x.shape, key)), _of_index)


# --- windows -------------------------------------------------------------------------------------


def _max_pool(x: Array, *, kernel: Pair, geometry: Geometry) -> Any:
    y = _gpu().max_pool(x, kernel, *geometry[:3])
    return y, (x, y, kernel, geometry)


def _of_max_pool(g: Array, x: Array, y: Array, kernel: Pair, geometry: Geometry) -> Any:
    return (_gpu().max_pool_backward(g, x, y, kernel, *geometry[:3]),)


pool.max_pool2d.fuse(_max_pool, _of_max_pool)


# --- functions of one number ---------------------------------------------------------------------


def _function(name: str, x: Array, fmt: Format | None = None, approximate: str = "none") -> Any:
    name = "gelu_tanh" if approximate == "tanh" else name
    y = _gpu().forward(name, x)
    return y, (name, y if FUNCTIONS[name].saves == "y" else x)


def _of_function(g: Array, name: str, saved: Array) -> Any:
    return (_gpu().backward(name, g, saved),)


for one in (elementwise.relu, functions.exp, functions.sigmoid, functions.tanh, functions.softplus,
            functions.silu, functions.gelu):  # fmt: skip
    one.fuse(partial(_function, one.name), _of_function)


# --- along rows ----------------------------------------------------------------------------------


def _too_long(x: Array, axis: int) -> bool:
    """Whether rows whose values lie apart, each of them one thread's, have too many of them."""
    return axis % x.ndim != x.ndim - 1 and x.shape[axis] > SHORT


def _softmax(x: Array, *, axis: int) -> Any:
    return None if _too_long(x, axis) else (y := _gpu().softmax(x, axis), (y, axis))


def _log_softmax(x: Array, *, axis: int) -> Any:
    return None if _too_long(x, axis) else (y := _gpu().log_softmax(x, axis), (y, axis))


fused.softmax.fuse(_softmax, lambda g, y, axis: (_gpu().softmax_backward(g, y, axis),))
fused.log_softmax.fuse(_log_softmax, lambda g, y, axis: (_gpu().log_softmax_backward(g, y, axis),))


def _cross_entropy(
    logits: Array, *, target: Array, ignored: int, smoothing: float, reduction: str
) -> Any:
    if _too_long(logits, 1):
        return None
    target = target.astype(np.int64, copy=False)
    rows, statistics = _gpu().cross_entropy(logits, target, ignored, smoothing)
    counts = (target != ignored).astype(np.float32)
    divisor = counts.sum() if reduction == "mean" else np.float32(1)
    value = rows if reduction == "none" else rows.sum() / divisor  # none counts: 0 / 0 = NaN
    return value, (logits, target, statistics, counts / divisor, ignored, smoothing)


def _of_cross_entropy(
    g: Array, x: Array, target: Array, statistics: Array, weight: Array, *how: Any
) -> Any:
    return (_gpu().cross_entropy_backward(weight * carried(g), x, target, statistics, *how),)


losses.cross_entropy.fuse(_cross_entropy, _of_cross_entropy)


# --- norms ---------------------------------------------------------------------------------------


def _over_last(name: str, x: Array, *parameters: Array, axes: tuple[int, ...], eps: float) -> Any:
    if not x.size or sorted(a % x.ndim for a in axes) != list(range(x.ndim - len(axes), x.ndim)):
        return None
    width = math.prod(x.shape[x.ndim - len(axes) :])
    flat = (part.reshape(-1) for part in parameters)
    y, normal = getattr(_normalise(), name)(x.reshape(-1, width), *flat, eps=eps)
    return y.reshape(x.shape), (normal, [part.shape for part in parameters])


def _group_norm(x: Array, *parameters: Array, groups: int, eps: float) -> Any:
    if not x.size:
        return None
    y, normal = _normalise().group_norm(x, groups, *parameters, eps=eps)
    return y, (normal, [part.shape for part in parameters])


def _of_norm(g: Array, normal: Any, shapes: list[tuple[int, ...]]) -> Any:
    both: list[Array] = []

    def of_parameter(place: int) -> Array:
        if not both:
            both.append(_normalise().norm_parameters_backward(rows, normal))
        slope: Array = both[0][place].reshape(shapes[place])
        return slope

    rows = g.reshape(normal.x.shape)
    of_input = lambda: _normalise().norm_backward(rows, normal).reshape(g.shape)
    return (of_input, *(partial(of_parameter, place) for place in range(len(shapes))))


def _batch_norm(
    x: Array, *parameters: Array, eps: float, fixed: Any = None, tell: Any = None
) -> Any:
    types = {part.dtype.name for part in parameters}
    if x.ndim < 3 or not x.size or len(types) > 1 or not types <= set(STORAGE):
        return None
    y, normal, variance = _normalise().batch_norm(x, *parameters, eps=eps, fixed=fixed)
    if fixed is None:
        tell(normal.mean, variance)
    return y, (normal, len(parameters))


def _of_batch_norm(g: Array, normal: Any, count: int) -> Any:
    sums: list[Array] = []

    def of(place: int) -> Array:
        if not sums:
            sums.extend(_normalise().batch_norm_parameters_backward(g, normal))
        return sums[place]

    def of_input() -> Array:
        read = (of(0), of(1)) if normal.own else None
        slope: Array = _normalise().batch_norm_backward(g, normal, read)
        return slope

    return (of_input, *(partial(of, place) for place in range(count)))


norms.batch_norm.fuse(_batch_norm, _of_batch_norm)
norms.layer_norm.fuse(partial(_over_last, "layer_norm"), _of_norm)
norms.rms_norm.fuse(partial(_over_last, "rms_norm"), _of_norm)
norms.group_norm.fuse(_group_norm, _of_norm)
