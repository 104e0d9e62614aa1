"""Functions of one number: by table where that is exact, else a float64 value rounded once."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.arguments import one_of
from fp16sim.arith.blockwise import Results, in_blocks, round_one
from fp16sim.arith.rational import DIVIDE, SQRT, operate
from fp16sim.backend import Array, namespace_of
from fp16sim.formats import FP32, Format, FormatLike
from fp16sim.kernels import elementary
from fp16sim.rounding import Rounding, Switches, float_array


class Unary(Protocol):
    """``function(x, fmt, mode, ...)``: see the module's text."""

    def __call__(  # noqa: D102
        self,
        x: ArrayLike,
        fmt: FormatLike,
        mode: str = "ties_to_even",
        **switches: Unpack[Switches],
    ) -> Any: ...


def _apply(name: str, x: ArrayLike, how: Rounding) -> Any:
    values = float_array(x, "x", gpu=True)[0]
    index = None if how.draw is not None or events.observed() else _table_index(values, how.fmt)
    if index is not None:
        arguments = (name, how.fmt, how.mode, how.saturate, how.subnormals)
        on_gpu = namespace_of(values) is not np
        result = (_table_on_gpu if on_gpu else _table)(*arguments)[index]
        return result[()] if result.ndim == 0 else result
    if namespace_of(values) is not np:
        raise TypeError(
            f"x is a CuPy array; there {name} takes float32 numbers of a format of up to 16 bits"
        )
    return _without_table(name, x, how)


def _table_index(values: Array, fmt: Format) -> Array | None:
    """The leading bits of float32 values, if they have no others and a table for the format pays.

    As many bits as the format's numbers have in float32: 2^(8+p) entries, which are 65 536 for
    bf16. For fp16 the table also holds what is beyond its range; so an index is a mere shift.
    """
    if fmt.bits > 16 or fmt.precision > 11 or values.dtype != np.float32:
        return None
    bits = values.view(np.uint32)
    dropped = FP32.precision - fmt.precision
    if (bits & np.uint32((1 << dropped) - 1)).any():
        return None
    index: Array = bits >> np.uint32(dropped)
    return index


def table_entries(precision: int) -> Array:
    """The float32 values that stand at the indices of a table."""
    codes = np.arange(2 ** (8 + precision), dtype=np.uint32)
    return (codes << np.uint32(FP32.precision - precision)).view(np.float32)


@lru_cache(maxsize=32)
def _table(name: str, fmt: Format, mode: str, saturate: bool, subnormals: bool) -> Array:
    how = Rounding(fmt, mode, saturate, subnormals)
    table: Array = _without_table(name, table_entries(fmt.precision), how)
    return table


@lru_cache(maxsize=32)
def _table_on_gpu(*arguments: Any) -> Array:
    import cupy

    table: Array = cupy.asarray(_table(*arguments))
    return table


def _without_table(name: str, x: ArrayLike, how: Rounding) -> Any:
    if name == "sqrt":
        return operate(SQRT, [x], how)
    if name == "reciprocal":
        return operate(replace(DIVIDE, name=name), [np.float32(1), x], how)

    def compute(values: Array) -> Results:
        exact = elementary.evaluate(name, values, anchored=how.fmt.precision <= 40)
        beyond = np.zeros(exact.shape, bool)
        if how.fmt.precision > 40:
            # Zeros and infinities that are none: to odd they would be the neighbours of those.
            beyond = elementary.out_of_range(name, values)
        poles = np.isinf(exact) & np.isfinite(values) & ~beyond
        rounded = how(exact)
        if beyond.any():
            rounded = rounded.copy()
        origin = events.Origin(events.current_scope(), name, "value")
        for i in np.flatnonzero(beyond):
            size = Fraction(2) ** (1100 if np.isinf(exact[i]) else -1100)
            minus = name in elementary.GATED and values[i] < 0
            rounded[i] = round_one(-size if minus else size, how, 0.0, origin)
        return Results(rounded, exact, poles, beyond)

    return in_blocks([x], how, name, compute)


def _unary(name: str, doc: str) -> Unary:
    def function(
        x: ArrayLike,
        fmt: FormatLike,
        mode: str = "ties_to_even",
        **switches: Unpack[Switches],
    ) -> Any:
        return _apply(name, x, Rounding.of(fmt, mode, **switches))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


sqrt = _unary("sqrt", "The square root, correctly rounded to every format; of -0, -0.")
reciprocal = _unary("reciprocal", "1 / x, correctly rounded to every format.")
rsqrt = _unary("rsqrt", "1 / sqrt(x); of zero, infinity with its sign (IEEE 754-2019, 9.2.1).")
exp = _unary("exp", "e^x.")
exp2 = _unary("exp2", "2^x.")
expm1 = _unary("expm1", "e^x - 1.")
log = _unary("log", "The natural logarithm.")
log2 = _unary("log2", "The logarithm to base 2.")
log1p = _unary("log1p", "log(1 + x).")
sin = _unary("sin", "The sine of x radians, of x itself however large.")
cos = _unary("cos", "The cosine of x radians, of x itself however large.")
tanh = _unary("tanh", "The hyperbolic tangent.")
erf = _unary("erf", "The error function.")
sigmoid = _unary("sigmoid", "1 / (1 + e^-x).")
softplus = _unary("softplus", "log(1 + e^x).")
silu = _unary("silu", "x / (1 + e^-x); of -infinity, the limit -0.")


def gelu(
    x: ArrayLike,
    fmt: FormatLike,
    mode: str = "ties_to_even",
    *,
    approximate: str = "none",
    **switches: Unpack[Switches],
) -> Any:
    """x Φ(x), with the normal distribution's Φ(x) = (1 + erf(x/√2)) / 2; of -infinity, -0.

    approximate: "none", or "tanh" for x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, rounded once as
    well. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415 (2016).
    """
    one_of("approximate", approximate, ("none", "tanh"))
    name = "gelu" if approximate == "none" else "gelu_tanh"
    return _apply(name, x, Rounding.of(fmt, mode, **switches))
