"""Arithmetic whose results are rounded once, to any format and in any mode.

``add`` to ``remainder`` are correctly rounded for every format: the exact result of the operands
*as they are given* (any float32 or float64 values; round them first if they should be numbers of
the format), rounded once. These are the *formatOf* operations of IEEE 754-2019, section 5.4. So
are ``exp`` to ``gelu`` for every number of a format of up to 16 bits. In wider formats, and for
operands with more bits than the format, they round a float64 value once, which is not proved to
be correct: hardly ever wrong in fp32; in fp64 with the error of the evaluation, some ulps, and many
more in the far negative tail of gelu. There (beyond 40 bits) they do not count as inexact.

All take arrays of float16, float32 or float64 (or ml_dtypes types, or Python floats), broadcast
as NumPy does, and the keywords of ``round_to``: saturate, subnormals, rng, random_bits. They
return float32, or float64 if an operand is or the format needs it, and never warn; IEEE 754's
exceptions are counted by ``status_flags``.

Stochastic rounding takes inexact results as float64 rounded to odd has them: to p bits, a
probability is right to 2^(p-53).

Most results are decided in float64, block by block. Those that float64 has no room for go one by
one through exact fractions, some twenty microseconds each: operands beyond 2^±250, formats of more
than 51 bits (but to nearest even fp64 is the machine's own, except for fma).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import Any, NamedTuple, Protocol, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.arguments import one_of
from fp16sim.backend import Array, carrier_of, namespace_of
from fp16sim.formats import FP32, FP64, Format, FormatLike
from fp16sim.kernels import elementary, reference, sticky
from fp16sim.rounding import Rounding, Switches, count_signalling, float_array
from fp16sim.status import exceptions, exceptions_of_one

# Values a block: more would fill the caches with intermediate results, fewer cost calls.
BLOCK = 2**15

# ---------------------------------------------------------------------------------------------
# Operations with a rational result (or a square root)


@dataclass(frozen=True)
class Operation:
    """An operation in three ways that must agree: natively, to odd in float64, and exactly."""

    name: str
    #: float64's own, for special values
    native: Callable[..., Any]
    #: float64 rounded to odd, for operands that have room
    to_odd: Callable[..., Array]
    #: the exact result, or for roots one that rounds alike, of finite operands
    exact: Callable[..., Fraction]


def _exact_sqrt(x: Fraction) -> Fraction:
    """A number on the same side as the root of x of all numbers and midpoints of 64 bits."""
    scale = 4 ** max(0, 160 - x.numerator.bit_length() + x.denominator.bit_length())
    scaled = x * scale
    root = isqrt(int(scaled))
    exact = root * root == scaled
    # The scale is a power of 4: its root is exact.
    return Fraction(2 * root + (not exact), 2 * isqrt(scale))


def _exact_remainder(x: Fraction, y: Fraction) -> Fraction:
    return x - y * round(x / y)  # Python rounds halves to even, as the standard wants it


def _native_remainder(x: Array, y: Array) -> Array:
    """IEEE 754's remainder, exact, from C's fmod (the algorithm of fdlibm's e_remainder.c)."""
    size = np.abs(y)
    rest = np.abs(np.fmod(x, 2 * size))  # below two divisors
    once = rest + rest > size
    rest = np.where(once, rest - size, rest)
    rest = np.where(once & (rest + rest >= size), rest - size, rest)
    rest = np.where(np.isinf(y) & np.isfinite(x), np.abs(x), rest)
    return np.where(np.signbit(x), -rest, rest)


def _native_fma(x: Array, y: Array, z: Array) -> Array:
    """x y + z with two roundings; an infinite z stays what it is even if x y overflows."""
    return np.where(np.isfinite(x) & np.isfinite(y) & np.isinf(z), z, x * y + z)


def _exact_zero(operation: Operation, operands: list[float], mode: str) -> float:
    """A result that is exactly zero, with its sign (IEEE 754-2019, 6.3)."""
    negative = [math.copysign(1.0, x) < 0 for x in operands]
    if operation is REMAINDER or operation is SQRT:
        minus = negative[0]
    elif operation in (ADD, SUBTRACT, FMA):
        *factors, last = negative
        first, last = sum(factors) % 2 == 1, last != (operation is SUBTRACT)
        minus = first if first == last else mode == "toward_negative"
    else:
        minus = negative[0] != negative[1]
    return -0.0 if minus else 0.0


ADD = Operation("add", np.add, sticky.add, lambda x, y: x + y)
SUBTRACT = Operation("subtract", np.subtract, lambda x, y: sticky.add(x, -y), lambda x, y: x - y)
MULTIPLY = Operation("multiply", np.multiply, sticky.multiply, lambda x, y: x * y)
DIVIDE = Operation("divide", np.divide, sticky.divide, lambda x, y: x / y)
SQRT = Operation("sqrt", np.sqrt, sticky.sqrt, _exact_sqrt)
FMA = Operation("fma", _native_fma, sticky.fma, lambda x, y, z: x * y + z)
REMAINDER = Operation("remainder", _native_remainder, _native_remainder, _exact_remainder)


def _operate(operation: Operation, operands: list[Any], how: Rounding) -> Any:
    return _in_blocks(
        operands, how, operation.name, lambda *flat: _operate_block(operation, flat, how)
    )


class _Results(NamedTuple):
    """A block of results, and what there is to say about them."""

    rounded: Array
    #: float64, on the same side as the exact ones of all numbers and midpoints of the format
    exact: Array
    #: infinite results of finite operands
    poles: Array
    #: results that observers know of already
    announced: Array


def _in_blocks(
    operands: list[Any], how: Rounding, name: str, compute: Callable[..., _Results]
) -> Any:
    """Broadcast the operands, compute block by block, tell observers."""
    arrays, dtype = _operands(operands, how.fmt)
    result = np.empty(arrays[0].shape, dtype)
    flat = [a.reshape(-1) for a in arrays]
    origin = events.Origin(events.current_scope(), name, "value")
    with np.errstate(all="ignore"):
        for start in range(0, result.size, BLOCK):
            block = slice(start, start + BLOCK)
            doubles = [a[block].astype(np.float64) for a in flat]
            results = compute(*doubles)
            result.reshape(-1)[block] = results.rounded
            if events.observed():
                _announce(doubles, results, how, origin)
        if events.observed() and (signalling := sum(count_signalling(x) for x in operands)):
            events.announce(events.Exceptions(0, 0, 0, 0, 0, signalling, origin))
    return result[()] if result.ndim == 0 else result


def _operate_block(operation: Operation, flat: tuple[Array, ...], how: Rounding) -> _Results:
    native = operation.native(*flat)
    finite = np.logical_and.reduce([np.isfinite(a) for a in flat])
    # Infinities, NaNs and division by zero are float64's; so are exact zeros with their sign.
    regular = finite
    if operation.name in ("divide", "reciprocal", "remainder"):
        regular = finite & (flat[1] != 0)
    if operation is SQRT:
        regular = finite & (flat[0] > 0)
    exact, rational = native, regular
    if _float64_has_room_for(how.fmt):
        rational = ~np.logical_and.reduce([sticky.has_room(a) for a in flat]) & regular
        to_odd = operation.to_odd(*flat)
        exact = np.where(regular & ~((to_odd == 0) & (native == 0)), to_odd, native)
    elif how == Rounding(FP64) and operation is not FMA and not events.observed():
        rational = np.zeros_like(regular)  # float64 rounds right; but its x y + z twice
    if how.mode == "toward_negative" and operation in (ADD, SUBTRACT, FMA):
        exact = _negative_zeros(operation, flat, exact)
    rounded = how(exact)
    origin = events.Origin(events.current_scope(), operation.name, "value")
    if rational.any():
        exact, rounded = exact.copy(), rounded.copy()
    for i in np.flatnonzero(rational):
        parts = [float(a[i]) for a in flat]
        truth = operation.exact(*(Fraction(part) for part in parts))
        zero = _exact_zero(operation, parts, how.mode)
        exact[i] = reference.round_to(truth or zero, FP64, "to_odd")
        rounded[i] = _one(truth, how, zero, origin)
    return _Results(rounded, exact, np.isinf(native) & finite & ~regular, rational)


def _operands(operands: list[ArrayLike], fmt: Format) -> tuple[list[Array], np.dtype[Any]]:
    """Operands as arrays of one shape, and the dtype of the result."""
    names = ("x", "y", "z")
    arrays = [float_array(x, name)[0] for x, name in zip(operands, names, strict=False)]
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(names, arrays, strict=False))
        raise ValueError(f"operands have shapes that do not broadcast: {shapes}") from None
    dtype = np.result_type(carrier_of(fmt), *arrays)
    return [np.broadcast_to(a, shape) for a in arrays], dtype


def _flat64(x: Array) -> Array:
    """In float64, 1-d and contiguous."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return np.ascontiguousarray(x, np.float64).reshape(-1)


def _float64_has_room_for(fmt: Format) -> bool:
    """Whether a float64 rounded to odd decides every rounding to the format."""
    return FP64.precision - fmt.precision >= 2 and fmt.emin > -900 and fmt.emax < 900


def _negative_zeros(operation: Operation, flat: tuple[Array, ...], exact: Array) -> Array:
    """Exact sums that are zero have a minus here, unless all parts are +0 (IEEE 754, 6.3)."""
    *factors, last = flat
    first = factors[0] * factors[1] if operation is FMA else factors[0]
    negative = np.signbit(first) | (np.signbit(last) ^ (operation is SUBTRACT))
    return np.where((exact == 0) & (negative | (first != 0)), -0.0, exact)


def _one(exact: Fraction, how: Rounding, zero: float, origin: events.Origin) -> float:
    """An exact result rounded, and announced; ``zero`` is what it looks like if it is zero."""
    draw = None if how.draw is None else Fraction(int(how.draw(1)[0]), 2**32)
    result = reference.round_to(exact or zero, how.fmt, how.mode, how.saturate, draw)
    if not how.subnormals and abs(result) < how.fmt.smallest_normal:
        result = result * 0.0 if how.fmt.signed_zero else 0.0
    if events.observed():
        events.announce(exceptions_of_one(exact, result, how.fmt, how.mode, origin))
    return result


def _announce(
    operands: list[Array], results: _Results, how: Rounding, origin: events.Origin
) -> None:
    """Tell observers about a block of results."""
    rounded, exact, poles, announced = results
    judged = ~announced & ~poles
    raised = exceptions(exact[judged], rounded[judged], how.fmt, how.mode, origin)
    no_nan = ~np.logical_or.reduce([np.isnan(a) for a in operands])
    invalid = raised.invalid + int(np.count_nonzero(np.isnan(exact) & no_nan & judged))
    raised = raised._replace(invalid=invalid, divide_by_zero=int(np.count_nonzero(poles)))
    events.announce(raised)
    events.announce(events.Rounded(exact, rounded, how.fmt, origin))


class Binary(Protocol):
    """``operation(x, y, fmt, mode, ...)``: see the module's text."""

    def __call__(  # noqa: D102
        self,
        x: ArrayLike,
        y: ArrayLike,
        fmt: FormatLike,
        mode: str = "ties_to_even",
        **switches: Unpack[Switches],
    ) -> Any: ...


def _binary(operation: Operation, doc: str) -> Binary:
    def function(
        x: ArrayLike,
        y: ArrayLike,
        fmt: FormatLike,
        mode: str = "ties_to_even",
        **switches: Unpack[Switches],
    ) -> Any:
        how = Rounding.of(fmt, mode, **switches)
        return _operate(operation, [x, y], how)

    function.__name__ = function.__qualname__ = operation.name
    function.__doc__ = doc
    return function


add = _binary(ADD, "x + y, rounded once.")
subtract = _binary(SUBTRACT, "x - y, rounded once.")
multiply = _binary(MULTIPLY, "x y, rounded once.")
divide = _binary(DIVIDE, "x / y, rounded once.")
remainder = _binary(
    REMAINDER,
    """x - n y, where n is the integer nearest to x / y (halves to even), rounded once.

    IEEE 754's remainder, as ``math.remainder``; not the one of ``np.remainder``, whose n is
    rounded down.
    """,
)


def fma(
    x: ArrayLike,
    y: ArrayLike,
    z: ArrayLike,
    fmt: FormatLike,
    mode: str = "ties_to_even",
    **switches: Unpack[Switches],
) -> Any:
    """x y + z, rounded once: the product is not."""
    how = Rounding.of(fmt, mode, **switches)
    return _operate(FMA, [x, y, z], how)


def rint(
    x: ArrayLike,
    fmt: FormatLike,
    mode: str = "ties_to_even",
    **switches: Unpack[Switches],
) -> Any:
    """To an integer that is a number of the format, by the mode, in one rounding.

    Signals inexact, as C's rint does (IEEE 754's roundToIntegralExact).
    """
    how = Rounding.of(fmt, mode, **switches)
    fmt = how.fmt
    if not fmt.signed and fmt.precision > 1:
        raise ValueError(f"fmt={fmt} has no zero, so that not every number has a nearest integer")
    arrays, dtype = _operands([x], fmt)
    values = _flat64(arrays[0])
    keeping = replace(how, subnormals=True)
    if fmt.emax >= fmt.precision - 1:
        # The same numbers, less those between integers.
        emin = max(fmt.emin, fmt.precision - 1)
        subnormals = fmt.subnormals if emin == fmt.emin else fmt.signed
        integers = replace(fmt, emin=emin, subnormals=subnormals)
        whole = values
        result = replace(keeping, fmt=integers)(values)
    else:  # all integers in its range are numbers of the format
        whole = replace(keeping, fmt=INTEGERS)(values)
        result = keeping(whole)
    if not fmt.subnormals and fmt.emin > 0:  # nothing between 0 and 2^emin, which are integers
        small = np.abs(values) < fmt.smallest_normal
        result = np.where(small, keeping(values), result)
    if not how.subnormals:
        small = np.abs(result) < fmt.smallest_normal
        result = np.where(small, result * 0.0 if fmt.signed_zero else 0.0, result)
    result = result.astype(dtype)
    if events.observed():
        origin = events.Origin(events.current_scope(), "rint", "value")
        raised = exceptions(whole, result, fmt, how.mode, origin)
        inexact = int(np.count_nonzero(np.isfinite(values) & (values != result)))
        invalid = raised.invalid + count_signalling(x)
        # An integer is not tiny.
        events.announce(
            raised._replace(inexact=inexact, invalid=invalid, underflow_after=0, underflow_before=0)
        )
        events.announce(events.Rounded(values, result, fmt, origin))
    result = result.reshape(arrays[0].shape)
    return result[()] if result.ndim == 0 else result


#: float64 without what lies between integers
INTEGERS = replace(FP64, name="integers", emin=52)

# ---------------------------------------------------------------------------------------------
# Comparisons


class Comparison(Protocol):
    """``comparison(x, y)``: a bool for every pair of elements."""

    def __call__(self, x: ArrayLike, y: ArrayLike) -> Any: ...  # noqa: D102


def _comparison(ufunc: np.ufunc, quiet: bool) -> Comparison:
    def function(x: ArrayLike, y: ArrayLike) -> Any:
        (first, second), _ = _operands([x, y], FP32)  # of different dtypes: NumPy widens exactly
        if events.observed():
            invalid = count_signalling(x) + count_signalling(y)
            if not quiet:
                invalid = int(np.count_nonzero(np.isnan(first) | np.isnan(second)))
            origin = events.Origin(events.current_scope(), ufunc.__name__, "value")
            events.announce(events.Exceptions(0, 0, 0, 0, 0, invalid, origin))
        with np.errstate(all="ignore"):
            return ufunc(first, second)

    function.__name__ = function.__qualname__ = ufunc.__name__
    quietness = "A NaN is no exception" if quiet else "A NaN raises invalid"
    function.__doc__ = (
        f"Exactly, whatever formats the operands are numbers of; NaN is unordered, -0 equals +0. "
        f"{quietness} (IEEE 754-2019, section 5.11)."
    )
    return function


equal = _comparison(np.equal, quiet=True)
not_equal = _comparison(np.not_equal, quiet=True)
less = _comparison(np.less, quiet=False)
less_equal = _comparison(np.less_equal, quiet=False)
greater = _comparison(np.greater, quiet=False)
greater_equal = _comparison(np.greater_equal, quiet=False)

# ---------------------------------------------------------------------------------------------
# Functions of one number


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


def _table_entries(precision: int) -> Array:
    """The float32 values that stand at the indices of a table."""
    codes = np.arange(2 ** (8 + precision), dtype=np.uint32)
    return (codes << np.uint32(FP32.precision - precision)).view(np.float32)


@lru_cache(maxsize=32)
def _table(name: str, fmt: Format, mode: str, saturate: bool, subnormals: bool) -> Array:
    how = Rounding(fmt, mode, saturate, subnormals)
    table: Array = _without_table(name, _table_entries(fmt.precision), how)
    return table


@lru_cache(maxsize=32)
def _table_on_gpu(*arguments: Any) -> Array:
    import cupy

    table: Array = cupy.asarray(_table(*arguments))
    return table


def before_rounding(name: str, x: Array, fmt: Format) -> Array:
    """A function's float64 values that rounded once to ``fmt`` are right: the engine's door.

    x: a float32 or float64 array. No checks; values of formats of up to 16 bits come from a table.
    """
    index = _table_index(x, fmt)
    if index is not None:
        return _table_before_rounding(name, fmt.precision)[index]
    return elementary.evaluate(name, x.astype(np.float64), anchored=False)


@lru_cache(maxsize=16)
def _table_before_rounding(name: str, precision: int) -> Array:
    return elementary.evaluate(name, _flat64(_table_entries(precision)))


def _without_table(name: str, x: ArrayLike, how: Rounding) -> Any:
    if name == "sqrt":
        return _operate(SQRT, [x], how)
    if name == "reciprocal":
        return _operate(replace(DIVIDE, name=name), [np.float32(1), x], how)

    def compute(values: Array) -> _Results:
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
            rounded[i] = _one(-size if minus else size, how, 0.0, origin)
        return _Results(rounded, exact, poles, beyond)

    return _in_blocks([x], how, name, compute)


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
