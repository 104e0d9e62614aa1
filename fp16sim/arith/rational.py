"""Operations whose exact result is a fraction (or a square root): add to remainder, fma, rint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt
from typing import Any, Protocol, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.arith.blockwise import Results, broadcast, flat64, in_blocks, round_one
from fp16sim.backend import Array
from fp16sim.formats import FP64, Format, FormatLike
from fp16sim.kernels import reference, sticky
from fp16sim.rounding import Rounding, Switches, count_signalling
from fp16sim.status import exceptions


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

#: float64 without what lies between integers
INTEGERS = replace(FP64, name="integers", emin=52)


def operate(operation: Operation, operands: list[Any], how: Rounding) -> Any:
    """The operation's results, rounded once; operands are broadcast and checked."""
    return in_blocks(
        operands, how, operation.name, lambda *flat: _operate_block(operation, flat, how)
    )


def _operate_block(operation: Operation, flat: tuple[Array, ...], how: Rounding) -> Results:
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
        rounded[i] = round_one(truth, how, zero, origin)
    return Results(rounded, exact, np.isinf(native) & finite & ~regular, rational)


def _float64_has_room_for(fmt: Format) -> bool:
    """Whether a float64 rounded to odd decides every rounding to the format."""
    return FP64.precision - fmt.precision >= 2 and fmt.emin > -900 and fmt.emax < 900


def _negative_zeros(operation: Operation, flat: tuple[Array, ...], exact: Array) -> Array:
    """Exact sums that are zero have a minus here, unless all parts are +0 (IEEE 754, 6.3)."""
    *factors, last = flat
    first = factors[0] * factors[1] if operation is FMA else factors[0]
    negative = np.signbit(first) | (np.signbit(last) ^ (operation is SUBTRACT))
    return np.where((exact == 0) & (negative | (first != 0)), -0.0, exact)


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
        return operate(operation, [x, y], how)

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
    return operate(FMA, [x, y, z], how)


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
    arrays, dtype = broadcast([x], fmt)
    values = flat64(arrays[0])
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
