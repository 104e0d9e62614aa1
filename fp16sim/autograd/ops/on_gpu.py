"""Primitives that a GPU runs as one kernel each, from stored values to stored values.

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

from fp16sim.autograd.ops import functions, fused, losses, norms
from fp16sim.backend import Array, carried
from fp16sim.formats import Format
from fp16sim.kernels.fused.elementwise import FUNCTIONS


def _gpu() -> Any:
    return importlib.import_module("fp16sim.kernels.fused.gpu")


def _normalise() -> Any:
    return importlib.import_module("fp16sim.kernels.fused.normalise")


# --- functions of one number ---------------------------------------------------------------------


def _function(name: str, x: Array, fmt: Format, approximate: str = "none") -> Any:
    name = "gelu_tanh" if approximate == "tanh" else name
    y = _gpu().forward(name, x)
    return y, (name, y if FUNCTIONS[name].saves == "y" else x)


def _of_function(g: Array, name: str, saved: Array) -> Any:
    return (_gpu().backward(name, g, saved),)


for one in (functions.exp, functions.sigmoid, functions.tanh, functions.softplus, functions.silu,
            functions.gelu):  # fmt: skip
    one.fuse(partial(_function, one.name), _of_function)


# --- along rows ----------------------------------------------------------------------------------


def _softmax(x: Array, *, axis: int) -> Any:
    return (y := _gpu().softmax(x), (y,)) if axis % x.ndim == x.ndim - 1 else None


def _log_softmax(x: Array, *, axis: int) -> Any:
    return (y := _gpu().log_softmax(x), (y,)) if axis % x.ndim == x.ndim - 1 else None


fused.softmax.fuse(_softmax, lambda g, y: (_gpu().softmax_backward(g, y),))
fused.log_softmax.fuse(_log_softmax, lambda g, y: (_gpu().log_softmax_backward(g, y),))


def _cross_entropy(
    logits: Array, *, target: Array, ignored: int, smoothing: float, reduction: str
) -> Any:
    if logits.ndim != 2:
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


norms.layer_norm.fuse(partial(_over_last, "layer_norm"), _of_norm)
norms.rms_norm.fuse(partial(_over_last, "rms_norm"), _of_norm)
norms.group_norm.fuse(_group_norm, _of_norm)
