"""Primitives that act on each element by itself."""

from __future__ import annotations

from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array, namespace_of, select


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


@primitive
def scale(x: Array, *, forward: float, backward: float) -> Any:
    """x · forward, and backward the gradient · backward: two numbers that need not agree."""
    return x * x.dtype.type(forward), (backward,)


@scale.backward
def _(g: Array, backward: float) -> Any:
    return (g * g.dtype.type(backward),)


@primitive
def divide(x: Array, y: Array) -> Any:
    """x / y."""
    return x / y, (x, y)


@divide.backward
def _(g: Array, x: Array, y: Array) -> Any:
    return lambda: g / y, lambda: -g * (x / y / y)


@primitive
def power(x: Array, y: Array) -> Any:
    """x^y; where x is 0 the derivative in y is 0 if y >= 0, as in PyTorch."""
    z = x**y
    return z, (x, y, z)


@power.backward
def _(g: Array, x: Array, y: Array, z: Array) -> Any:
    xp, zero = namespace_of(x), x.dtype.type(0)

    def of_exponent() -> Array:
        slope: Array = xp.where((x == 0) & (y >= 0), zero, g * z * xp.log(x))
        return slope

    # Of a constant the derivative is 0, even where x^(y-1) is infinite.
    return lambda: xp.where(y == 0, zero, g * y * x ** (y - 1)), of_exponent


@primitive(exact=True)
def absolute(x: Array) -> Any:
    """|x|, with derivative 0 at 0 as in PyTorch."""
    xp = namespace_of(x)
    return xp.abs(x), (xp.sign(x),)


@absolute.backward
def _(g: Array, sign: Array) -> Any:
    return (g * sign,)


@primitive  # not exact: a gradient may be halved
def maximum(x: Array, y: Array) -> Any:
    """The larger of both; equal ones share the gradient, as in PyTorch. NaN wins."""
    return namespace_of(x).maximum(x, y), (x, y)


@maximum.backward
def _(g: Array, x: Array, y: Array) -> Any:
    return _to_the_larger(g, x, y)


@primitive  # not exact: a gradient may be halved
def minimum(x: Array, y: Array) -> Any:
    """The smaller of both; equal ones share the gradient, as in PyTorch. NaN wins."""
    return namespace_of(x).minimum(x, y), (x, y)


@minimum.backward
def _(g: Array, x: Array, y: Array) -> Any:
    return _to_the_larger(g, -x, -y)


def _to_the_larger(g: Array, x: Array, y: Array) -> Any:
    xp, half, zero = namespace_of(x), g / 2, g.dtype.type(0)
    of_x = lambda: xp.where(x == y, half, xp.where(x < y, zero, g))
    of_y = lambda: xp.where(x == y, half, xp.where(y < x, zero, g))
    return of_x, of_y


@primitive  # not exact: the limits need not be numbers of the format
def clamp(x: Array, *, low: float | None, high: float | None) -> Any:
    """x cut to [low, high]; the gradient passes inside and at the ends, as in PyTorch."""
    xp = namespace_of(x)
    passes = xp.ones(x.shape, bool)
    if low is not None:
        passes &= ~(x < low)
    if high is not None:
        passes &= ~(x > high)
    low, high = (-xp.inf if low is None else low), (xp.inf if high is None else high)
    return xp.minimum(xp.maximum(x, x.dtype.type(low)), x.dtype.type(high)), (passes,)


@clamp.backward
def _(g: Array, passes: Array) -> Any:
    return (namespace_of(g).where(passes, g, g.dtype.type(0)),)


@primitive(exact=True)
def where(x: Array, y: Array, *, condition: Array) -> Any:
    """x where the condition holds, else y."""
    return select(condition, x, y), (condition,)


@where.backward
def _(g: Array, condition: Array) -> Any:
    zero = namespace_of(g).zeros((), g.dtype)
    return lambda: select(condition, g, zero), lambda: select(condition, zero, g)


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
    y = namespace_of(x).maximum(x, x.dtype.type(0))
    return y, (y,)


@relu.backward
def _(g: Array, y: Array) -> Any:
    zero = namespace_of(g).zeros((), g.dtype)
    return (select(y != 0, g, zero),)  # a NaN passes, as in PyTorch
