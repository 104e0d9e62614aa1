"""Functions of one number. Values are correctly rounded in formats of up to 11 bits of precision.

In fp32 and fp64 they are the carrier's own, within some units in the last place. Backward rules
multiply the gradient by a slope of the carrier's precision, and the product is rounded once.
"""

from __future__ import annotations

from typing import Any

from fp16sim.arith import before_rounding, slope
from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of
from fp16sim.formats import Format


@primitive(knows_format=True)
def exp(x: Array, fmt: Format) -> Any:
    """e^x."""
    y = before_rounding("exp", x, fmt)
    return y, (y,)


@exp.backward
def _(g: Array, y: Array) -> Any:
    return (g * y,)


@primitive(knows_format=True)
def log(x: Array, fmt: Format) -> Any:
    """The natural logarithm."""
    return before_rounding("log", x, fmt), (x,)


@log.backward
def _(g: Array, x: Array) -> Any:
    return (g / x,)


@primitive
def sqrt(x: Array) -> Any:
    """The square root."""
    y = namespace_of(x).sqrt(x)
    return y, (y,)


@sqrt.backward
def _(g: Array, y: Array) -> Any:
    return (g / (2 * y),)


@primitive(knows_format=True)
def sin(x: Array, fmt: Format) -> Any:
    """The sine of x radians."""
    return before_rounding("sin", x, fmt), (x,)


@sin.backward
def _(g: Array, x: Array) -> Any:
    return (g * namespace_of(x).cos(x),)


@primitive(knows_format=True)
def cos(x: Array, fmt: Format) -> Any:
    """The cosine of x radians."""
    return before_rounding("cos", x, fmt), (x,)


@cos.backward
def _(g: Array, x: Array) -> Any:
    return (-g * namespace_of(x).sin(x),)


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


@primitive(knows_format=True)
def softplus(x: Array, fmt: Format) -> Any:
    """log(1 + e^x)."""
    return before_rounding("softplus", x, fmt), (x, fmt)


@softplus.backward
def _(g: Array, x: Array, fmt: Format) -> Any:
    return (g * before_rounding("sigmoid", x, fmt),)


@primitive(knows_format=True)
def silu(x: Array, fmt: Format) -> Any:
    """x / (1 + e^-x)."""
    return before_rounding("silu", x, fmt), (x, fmt)


@silu.backward
def _(g: Array, x: Array, fmt: Format) -> Any:
    return (g * slope("silu", x, fmt),)


@primitive(knows_format=True)
def gelu(x: Array, fmt: Format, *, approximate: str) -> Any:
    """x Φ(x), with the normal distribution's Φ, or with its approximation through tanh."""
    name = "gelu_tanh" if approximate == "tanh" else "gelu"
    return before_rounding(name, x, fmt), (x, fmt, name)


@gelu.backward
def _(g: Array, x: Array, fmt: Format, name: str) -> Any:
    return (g * slope(name, x, fmt),)
