"""Primitives of several steps that a GPU runs as one kernel.

Inside they keep the carrier's precision; only what is stored is rounded: the last result.
"""

from __future__ import annotations

import math
from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, computing_dtype, namespace_of
from fp16sim.formats import Format
from fp16sim.rounding import store


@primitive(multiplies=True)
def linear(x: Array, weight: Array, *bias: Array, multiply: Any) -> Any:
    """x Wᵀ + b for x (..., in), W (out, in) and, if given, b (out,); b is added in the carrier."""
    y = multiply(as_rows(x), weight.T)  # one product, however many axes
    for b in bias:
        y += b
    return y.reshape(*x.shape[:-1], len(weight)), (x, weight, bool(bias), multiply)


@linear.backward
def _(g: Array, x: Array, weight: Array, has_bias: bool, multiply: Any) -> Any:
    rows = as_rows(g)
    of_input = lambda: multiply(rows, weight).reshape(x.shape)
    of_weight = lambda: multiply(rows.T, as_rows(x))
    of_bias = lambda: rows.sum(axis=0, dtype=computing_dtype(g))
    return (of_input, of_weight, of_bias) if has_bias else (of_input, of_weight)


@primitive(multiplies=True)
def unit_linear(x: Array, weight: Array, *bias: Array, multiply: Any) -> Any:
    """x Wᵀ / √in + b, its gradients scaled to unit variance: of x by 1/√out, of W, b by 1/√rows.

    Each scale is applied in the carrier, before the rounding on store.
    """
    rows = as_rows(x)
    y = multiply(rows, weight.T)
    y *= _root(y.dtype, weight.shape[1])
    for b in bias:
        y += b
    return y.reshape(*x.shape[:-1], len(weight)), (x, weight, bool(bias), multiply)


@unit_linear.backward
def _(g: Array, x: Array, weight: Array, has_bias: bool, multiply: Any) -> Any:
    rows = as_rows(g)
    dtype = computing_dtype(g)
    of_rows = _root(dtype, len(rows))
    of_input = lambda: (multiply(rows, weight) * _root(dtype, len(weight))).reshape(x.shape)
    of_weight = lambda: multiply(rows.T, as_rows(x)) * of_rows
    of_bias = lambda: rows.sum(axis=0, dtype=dtype) * of_rows
    return (of_input, of_weight, of_bias) if has_bias else (of_input, of_weight)


def _root(dtype: Any, count: int) -> Any:
    """1/√count in a dtype: what a sum of so many terms of variance 1 is multiplied by."""
    return dtype.type(1 / math.sqrt(max(count, 1)))


def as_rows(x: Array) -> Array:
    """(..., width) as (rows, width)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _softmax(x: Array, axis: int) -> Array:
    xp = namespace_of(x)
    y: Array = x - x.max(axis=axis, keepdims=True)
    xp.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def _of_softmax(g: Array, y: Array, axis: int) -> Array:
    total = (g * y).sum(axis=axis, keepdims=True)
    h: Array = g - total
    h *= y
    return h


@primitive
def softmax(x: Array, *, axis: int) -> Any:
    """e^x / Σ e^x along an axis."""
    y = _softmax(x, axis)
    return y, (y, axis)


@softmax.backward
def _(g: Array, y: Array, axis: int) -> Any:
    return (_of_softmax(g, y, axis),)


@primitive
def log_softmax(x: Array, *, axis: int) -> Any:
    """x - log Σ e^x along an axis."""
    xp = namespace_of(x)
    y = x - x.max(axis=axis, keepdims=True)
    y -= xp.log(xp.exp(y).sum(axis=axis, keepdims=True))
    return y, (y, axis)


@log_softmax.backward
def _(g: Array, y: Array, axis: int) -> Any:
    return (g - namespace_of(y).exp(y) * g.sum(axis=axis, keepdims=True),)


@primitive(knows_format=True, multiplies=True)
def scaled_dot_product_attention(
    q: Array, k: Array, v: Array, *, allowed: Array | None, is_causal: bool, scale: float,
    fmt: Format, multiply: Any,
) -> Any:  # fmt: skip
    """softmax(q kᵀ · scale) v over (..., length, width), where ``allowed`` says who sees whom.

    is_causal: key j is seen by queries from j on, instead.

    As in one fused kernel: scores and softmax stay in the carrier; the probabilities are rounded
    to ``fmt`` because the second product reads them, and so are their gradients on the way back.
    """
    xp = namespace_of(q)
    scores = multiply(q, k.swapaxes(-1, -2))
    scores *= scores.dtype.type(scale)
    if is_causal:
        allowed = xp.tri(*scores.shape[-2:], dtype=bool)
    if allowed is not None:
        xp.copyto(scores, scores.dtype.type(-xp.inf), where=~allowed)
    p = store(_softmax(scores, -1), fmt, None)
    return multiply(p, v), (q, k, v, p, scale, fmt, multiply)


@scaled_dot_product_attention.backward
def _(
    g: Array, q: Array, k: Array, v: Array, p: Array, scale: float, fmt: Format, multiply: Any
) -> Any:
    slopes: list[Array] = []

    def of_scores() -> Array:
        if not slopes:
            h = _of_softmax(multiply(g, v.swapaxes(-1, -2)), p, -1)
            h *= h.dtype.type(scale)
            slopes.append(store(h, fmt, None))
        return slopes[0]

    of_q = lambda: multiply(of_scores(), k)
    of_k = lambda: multiply(of_scores().swapaxes(-1, -2), q)
    of_v = lambda: multiply(p.swapaxes(-1, -2), g)
    return of_q, of_k, of_v
