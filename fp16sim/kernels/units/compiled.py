"""``units.cpu`` for NVIDIA's units with fp32 sums, compiled by Numba: the same bits.

Factors and powers of a few hundred columns stay in the L1 cache while rows pass by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numba import njit

from fp16sim.backend import Array
from fp16sim.kernels.layout import FLOAT64
from fp16sim.kernels.units.steps import Aligned
from fp16sim.kernels.words import (
    and_,
    compiled,
    float_of,
    larger,
    less,
    sub,
    truncated,
    where,
    word_of,
)

COLUMNS = 256

#: does one step for sums (m, n) or (t): takes factors (l, m) and (l, n), or (l, t) twice, with
#: their powers, l a multiple of 4; and the sums, float64
Advance: TypeAlias = Callable[[Array, Array, Array, Array, Array], None]


@cache
def advance(step: Aligned, narrow: bool, vectors: bool) -> Advance:
    """A compiled step. narrow: factors are float32 and sums of terms int32, else all is float64.

    With float32 factors, no sum may be smaller than 2^-60 but zero.
    """
    floats, integers = (np.float32, np.int32) if narrow else (np.float64, np.float64)
    infinity, sign_mask = FLOAT64.exponent_mask, FLOAT64.sign_mask
    kept = np.uint64(2**64 - 2 ** (FLOAT64.fraction_bits - step.kept_bits))
    least, one = FLOAT64.word(2.0**-126), FLOAT64.word(1.0)
    # A power's word taken from this is that of 2^bits over the power.
    dividend = np.uint64((step.fraction_bits + 2 * 1023) << FLOAT64.fraction_bits)
    unit, units = 2.0 ** (-126 - step.kept_bits), 2.0 ** (126 + step.kept_bits)
    inverse = 2.0**-step.fraction_bits
    largest_scale = floats(2.0**100 if narrow else np.inf)

    @njit(inline="always")
    def power_of(total: Any, largest: Any) -> Any:
        """The word of the largest power, of products and the sum so far; 1 for zero."""
        word = word_of(total)
        size = and_(word, ~sign_mask)
        power = and_(word, infinity)
        if not narrow:  # subnormal numbers of fp32
            power = where(less(np.uint64(0), size), larger(power, least), power)
        power = larger(power, word_of(np.float64(largest)))
        return where(less(np.uint64(0), power), power, one)

    @njit(inline="always")
    def scale_of(power: Any) -> Any:
        return float_of(sub(dividend, power))

    @njit(inline="always")
    def term(x: Any, y: Any, scale: Any) -> Any:
        product = x * y * scale
        return np.int32(product) if narrow else truncated(product)

    @njit(inline="always")
    def stored(total: Any, power: Any, terms: Any) -> Any:
        total = truncated(total * scale_of(power)) + np.float64(terms)
        total = total * float_of(power) * inverse
        cut = float_of(and_(word_of(total), kept))
        if not narrow:
            small = less(and_(word_of(total), ~sign_mask), least)
            cut = truncated(total * units) * unit + 0.0 if small else cut
        return cut

    def matrices(x: Array, y: Array, px: Array, py: Array, total: Array) -> None:
        largest, scale = np.empty(COLUMNS, floats), np.empty(COLUMNS, floats)
        terms = np.empty(COLUMNS, integers)
        for first in range(0, total.shape[1], COLUMNS):
            width = min(COLUMNS, total.shape[1] - first)
            columns = slice(first, first + width)
            for i in range(total.shape[0]):
                row = total[i, columns]
                largest[:] = 0
                terms[:] = 0
                for k in range(0, x.shape[0], 4):
                    p0, p1, p2, p3 = px[k, i], px[k + 1, i], px[k + 2, i], px[k + 3, i]
                    q0, q1 = py[k, columns], py[k + 1, columns]
                    q2, q3 = py[k + 2, columns], py[k + 3, columns]
                    for j in range(width):
                        lower = max(p0 * q0[j], p1 * q1[j])
                        upper = max(p2 * q2[j], p3 * q3[j])
                        largest[j] = max(largest[j], max(lower, upper))
                for j in range(width):
                    power = power_of(row[j], largest[j])
                    scale[j] = min(floats(scale_of(power)), largest_scale)
                for k in range(0, x.shape[0], 4):
                    x0, x1, x2, x3 = x[k, i], x[k + 1, i], x[k + 2, i], x[k + 3, i]
                    y0, y1 = y[k, columns], y[k + 1, columns]
                    y2, y3 = y[k + 2, columns], y[k + 3, columns]
                    for j in range(width):
                        s = scale[j]
                        lower = term(x0, y0[j], s) + term(x1, y1[j], s)
                        upper = term(x2, y2[j], s) + term(x3, y3[j], s)
                        terms[j] += lower + upper
                for j in range(width):
                    row[j] = stored(row[j], power_of(row[j], largest[j]), terms[j])

    def dots(x: Array, y: Array, px: Array, py: Array, total: Array) -> None:
        for j in range(total.size):
            largest, terms = floats(0), integers(0)
            for k in range(x.shape[0]):
                largest = max(largest, px[k, j] * py[k, j])
            power = power_of(total[j], largest)
            scale = min(floats(scale_of(power)), largest_scale)
            for k in range(x.shape[0]):
                terms += term(x[k, j], y[k, j], scale)
            total[j] = stored(total[j], power, terms)

    kernel: Advance = compiled(dots if vectors else matrices)
    return kernel
