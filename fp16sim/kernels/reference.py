"""What rounding means, one number at a time, in exact rational arithmetic: oracle and lesson.

Slow on purpose. No floating-point operation happens between the input and the result, so there
is nothing that could round twice.
"""

from __future__ import annotations

import math
from fractions import Fraction

from fp16sim.formats import Format


def exponent_of(magnitude: Fraction) -> int:
    """The integer e with 2^e <= magnitude < 2^(e+1), for magnitude > 0."""
    e = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    return e if magnitude >= Fraction(2) ** e else e - 1


def round_ties_to_even(x: float, fmt: Format, saturate: bool = False) -> float:
    """The number of ``fmt`` nearest to x; halfway, the one with an even significand.

    Source: IEEE 754-2019, sections 4.3.1 (nearest, overflow) and 7.4; OFP8 1.0 for formats
    without infinities (overflow gives NaN), OCP MX 1.0 for formats without NaN (it saturates).
    """
    if math.isnan(x):
        return x
    sign = math.copysign(1.0, x)
    if math.isinf(x):
        return sign * _beyond_max(fmt, saturate)
    magnitude = abs(Fraction(x))
    if magnitude == 0:
        return x

    # 1. The spacing of the format around x. Below 2^emin it stops shrinking: subnormals.
    exponent = max(exponent_of(magnitude), fmt.emin)
    spacing = Fraction(2) ** (exponent - fmt.precision + 1)

    # 2. The multiple of the spacing below x, and whether x is past the middle to the next one.
    steps = math.floor(magnitude / spacing)
    remainder = magnitude / spacing - steps
    half = Fraction(1, 2)
    if remainder > half or (remainder == half and steps % 2 == 1):
        steps += 1

    # 3. Overflow is judged on the rounded value, as if the exponent had no upper limit.
    rounded = steps * spacing
    if rounded > Fraction(fmt.max):
        return sign * _beyond_max(fmt, saturate)
    return sign * float(rounded)


def _beyond_max(fmt: Format, saturate: bool) -> float:
    if saturate or not fmt.nans:
        return fmt.max
    return math.inf if fmt.infinities else math.nan
