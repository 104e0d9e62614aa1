"""Dot products without any error, rounded to odd once at the end (see ``kernels.sticky``).

All factors are cut into digits of 20 bits: x = sum_i x_i 2^(20 i) times a power of two common to
all x, with integers |x_i| < 2^20; so are all y. A float64 matrix product of digits over at most
2^12 factors is then a sum of integers below 2^(12 + 40) in magnitude: every partial sum, in
whatever order BLAS adds, fused or not, is an integer that float64 holds, hence exact. The digits'
products with i + j = w are the coefficients of 2^(20 w) and are added as int64; after every 2^12
factors all but the uppermost are brought below 2^20 by carrying. What remains is one integer in
base 2^20, the exact dot product. (Cutting a product into error-free ones is Ozaki et al.,
"Error-free transformations of matrix multiplication", Numerical Algorithms 59, 2012.)

Its five leading digits have at least 81 bits; the rest is remembered as one more. Both parts of
that are added rounding to odd, which is the same as rounding the whole to odd: the smaller part
ends 28 bits or more below the last bit of the result, where only zero or not counts.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np

from fp16sim.backend import Array
from fp16sim.formats import FP64
from fp16sim.kernels import reference, sticky

WIDTH = 20
LONGEST = 2**9  # 2^12 would be exact, too; this stays in the cache
#: more digits than this, or exponents beyond this, and fractions are the lesser evil
MOST_DIGITS, FARTHEST = 20, 900


def dot_to_odd(a: Array, b: Array) -> Array:
    """a @ b for (..., m, k) and (..., k, n), finite, exact and then rounded to odd in float64."""
    low_a, count_a = _digits(a.swapaxes(-1, -2))
    low_b, count_b = _digits(b)
    ends = (low_a + low_b, low_a + low_b + WIDTH * (count_a + count_b))
    shape = (*a.shape[:-1], b.shape[-1])
    if max(count_a, count_b) > MOST_DIGITS or max(map(abs, ends)) > FARTHEST:
        result = np.empty(shape)
        for *batch, i, j in np.ndindex(shape):
            truth = exact_dot(a[(*batch, i)], b[(*batch, slice(None), j)])
            result[(*batch, i, j)] = reference.round_to(truth or 0.0, FP64, "to_odd")
        return result
    digits = np.zeros((count_a + count_b + 7, *shape), np.int64)
    sums = digits[4:]  # with zeros below, so that every number has five digits
    for start in range(0, a.shape[-1], LONGEST):
        part = slice(start, start + LONGEST)
        of_b = [_digit(b[..., part, :], low_b, j) for j in range(count_b)]
        for i in range(count_a):
            of_a = _digit(a[..., part], low_a, i)
            for j in range(count_b):
                sums[i + j] += (of_a @ of_b[j]).astype(np.int64)
        _carry(sums)
    negative = sums[-1] < 0
    np.negative(sums, out=sums, where=negative)
    _carry(sums)
    size = _leading(digits, low_a + low_b - 4 * WIDTH)
    return np.where(negative, -size, size)


def _digits(x: Array) -> tuple[int, int]:
    """Of (..., k, n): the exponent of the last bit of any value, and the digits from there up."""
    lowest, highest = FARTHEST + 1200, -FARTHEST - 1200
    for start in range(0, x.shape[-2], LONGEST):
        fraction, exponent = np.frexp(x[..., start : start + LONGEST, :].astype(np.float64))
        whole = np.ldexp(fraction, 53).astype(np.int64)
        used = whole != 0
        if used.any():
            last = np.frexp((whole & -whole).astype(np.float64))[1] - 1
            lowest = min(lowest, int((exponent - 53 + last)[used].min()))
            highest = max(highest, int(exponent[used].max()))
    if highest < lowest:
        return 0, 1
    return lowest, -(-(highest - lowest) // WIDTH)


def _digit(x: Array, lowest: int, i: int) -> Array:
    """Digit i as float64, with the sign of its value."""
    here = np.trunc(np.ldexp(x.astype(np.float64), -lowest - i * WIDTH))
    above = np.trunc(np.ldexp(here, -WIDTH))
    return here - np.ldexp(above, WIDTH)


def _carry(sums: Array) -> None:
    """Bring all digits but the last into 0 .. 2^20 - 1."""
    for low, high in pairwise(sums):
        carry = low >> WIDTH
        low -= carry << WIDTH
        high += carry


def _leading(digits: Array, lowest: int) -> Array:
    """Numbers that are not negative, given by digits of their own from 2^lowest up, to odd."""
    used = digits != 0
    top = np.maximum(len(digits) - 1 - used[::-1].argmax(axis=0), 4)
    first, second, third, fourth, fifth = (
        np.take_along_axis(digits, (top - i)[None], axis=0)[0] for i in range(5)
    )
    rest = used.any(axis=0) & (used.argmax(axis=0) < top - 4)
    upper = np.ldexp((first << WIDTH | second).astype(np.float64), 61)
    middle = np.ldexp((third << WIDTH | fourth).astype(np.float64), 21)
    lower = (fifth << 1 | rest).astype(np.float64)
    whole = sticky.add(upper, sticky.add(middle, lower))
    size: Array = np.ldexp(whole, lowest + (top - 4) * WIDTH - 1)
    return size


def exact_dot(x: Array, y: Array) -> Fraction:
    """The dot product of two vectors as a fraction."""
    return sum(
        (Fraction(float(p)) * Fraction(float(q)) for p, q in zip(x, y, strict=True)), Fraction(0)
    )
