"""Primitives that act on each element by itself."""

from __future__ import annotations

from typing import Any

from fp16sim.arith import before_rounding
from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of
from fp16sim.formats import Format


@primitive
def add(x: Array, y: Array) -> Any:
    """x + y."""
    return x + y, ()


@add.backward
def _(g: Array) -> Any:
    return g, g


@primitive
def subtract(x: Array, y: Array) -> Any:
    """x - y."""
    return x - y, ()


@subtract.backward
def _(g: Array) -> Any:
    return g, lambda: -g


@primitive
def multiply(x: Array, y: Array) -> Any:
    """x y."""
    return x * y, (x, y)


@multiply.backward
def _(g: Array, x: Array, y: Array) -> Any:
    return lambda: g * y, lambda: g * x


@primitive(exact=True)
def negative(x: Array) -> Any:
    """-x."""
    return -x, ()


@negative.backward
def _(g: Array) -> Any:
    return (-g,)


@primitive(exact=True)
def relu(x: Array) -> Any:
    """max(x, 0), with derivative 0 at 0 as in PyTorch."""
    passes = ~(x <= 0)  # a NaN passes, as in PyTorch
    return namespace_of(x).maximum(x, x.dtype.type(0)), (passes,)


@relu.backward
def _(g: Array, passes: Array) -> Any:
    return (namespace_of(g).where(passes, g, g.dtype.type(0)),)


# Correctly rounded in formats of up to 16 bits; in wider ones float64 values, rounded once.


@primitive(knows_format=True)
def sigmoid(x: Array, fmt: Format) -> Any:
    """1 / (1 + e^-x)."""
    y = before_rounding("sigmoid", x, fmt)
    return y, (y,)


@sigmoid.backward
def _(g: Array, y: Array) -> Any:
    return (g * (1 - y) * y,)


@primitive(knows_format=True)
def tanh(x: Array, fmt: Format) -> Any:
    """The hyperbolic tangent."""
    y = before_rounding("tanh", x, fmt)
    return y, (y,)


@tanh.backward
def _(g: Array, y: Array) -> Any:
    return (g * (1 - y * y),)
