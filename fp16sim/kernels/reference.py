"""What rounding means, one number at a time, in exact rational arithmetic: oracle and lesson.

Slow on purpose. No floating-point operation happens between the input and the result, so there
is nothing that could round twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from fp16sim.formats import Format

HALF = Fraction(1, 2)

#: Should a magnitude of ``steps + rest`` spacings, 0 <= rest < 1, go up to ``steps + 1``?
#: Arguments: whether the number is negative, steps, rest. Source: IEEE 754-2019, section 4.3; to
#: odd: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 57 (2008).
GOES_UP: dict[str, Callable[[bool, int, Fraction], bool]] = {
    "ties_to_even": lambda negative, steps, rest: rest > HALF or (rest == HALF and steps % 2 == 1),
    "ties_to_away": lambda negative, steps, rest: rest >= HALF,
    "toward_zero": lambda negative, steps, rest: False,
    "toward_negative": lambda negative, steps, rest: negative and rest > 0,
    "toward_positive": lambda negative, steps, rest: not negative and rest > 0,
    "to_odd": lambda negative, steps, rest: rest > 0 and steps % 2 == 0,
}

#: Does a finite number beyond the largest stop there, instead of going to infinity? Argument:
#: whether it is negative. Source: IEEE 754-2019, section 7.4; to odd stops, since infinity is even.
STOPS_AT_MAX: dict[str, Callable[[bool], bool]] = {
    "ties_to_even": lambda negative: False,
    "ties_to_away": lambda negative: False,
    "toward_zero": lambda negative: True,
    "toward_negative": lambda negative: not negative,
    "toward_positive": lambda negative: negative,
    "to_odd": lambda negative: True,
    "stochastic": lambda negative: False,
}


def exponent_of(magnitude: Fraction) -> int:
    """The integer e with 2^e <= magnitude < 2^(e+1), for magnitude > 0."""
    e = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return e if magnitude >= Fraction(2) ** e else e - 1


def round_to(
    x: float | Fraction,
    fmt: Format,
    mode: str = "ties_to_even",
    saturate: bool = False,
    draw: Fraction | None = None,
) -> float:
    """The number of ``fmt`` that the mode picks for x, a float or any rational number.

    draw: for the mode "stochastic" only, a number in [0, 1): x goes up if the part of a spacing by
    which it exceeds the number below, and draw, together make at least a whole one.

    Source: IEEE 754-2019, sections 4.3 and 7.4; OFP8 1.0 for formats without infinities (what
    would be infinite is NaN), OCP MX 1.0 for formats without NaN (they saturate). In a format
    without sign and zero, E8M0, zero and negative numbers become NaN, as in ml_dtypes.
    """
    if isinstance(x, float) and math.isnan(x):
        return x
    negative = math.copysign(1.0, x) < 0 if isinstance(x, float) else x < 0
    if not fmt.signed and (negative or x == 0):
        return math.nan
    sign = -1.0 if negative else 1.0
    zero = sign * 0.0 if fmt.signed_zero else 0.0
    if isinstance(x, float) and math.isinf(x):
        return sign * _infinity(fmt, saturate)
    magnitude = abs(Fraction(x))
    if magnitude == 0:
        return zero

    # 1. The spacing of the format around x. Below 2^emin it stops shrinking: subnormals. Without
    # them there is nothing between zero and 2^emin.
    exponent = max(exponent_of(magnitude), fmt.emin)
    spacing = Fraction(2) ** (exponent - fmt.precision + 1)
    if not fmt.subnormals and magnitude < Fraction(2) ** fmt.emin:
        spacing = Fraction(2) ** fmt.emin

    # 2. The multiple of the spacing below x, and whether the mode goes up to the next one.
    steps = math.floor(magnitude / spacing)
    rest = magnitude / spacing - steps
    if rest + draw >= 1 if draw is not None else GOES_UP[mode](negative, steps, rest):
        steps += 1

    # 3. Overflow is judged on the rounded value, as if the exponent had no upper limit.
    rounded = steps * spacing
    if rounded > Fraction(fmt.max):
        stops = STOPS_AT_MAX[mode](negative)
        return sign * (fmt.max if stops else _infinity(fmt, saturate))
    if rounded == 0:
        return zero if fmt.signed else fmt.smallest_normal
    return sign * float(rounded)


def _infinity(fmt: Format, saturate: bool) -> float:
    """What takes the place of infinity in the format."""
    if saturate or not fmt.nans:
        return fmt.max
    return math.inf if fmt.infinities else math.nan
