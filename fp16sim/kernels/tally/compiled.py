"""Counting in passes over blocks that stay in the cache, compiled by Numba."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fp16sim.backend import Array
from fp16sim.formats import Format
from fp16sim.kernels.layout import Carrier, carrier_for
from fp16sim.kernels.tally.cpu import Tally, add_tiny, limit_of, placed
from fp16sim.kernels.words import (
    add,
    and_,
    compiled,
    compiled_to_sum,
    float_of,
    larger,
    less,
    or_,
    shl,
    shr,
    smaller,
    sub,
    where,
    word_of,
)

# Values in a block: two arrays of them fit the L1 cache.
BLOCK = 2**11


def tally(before: Array, after: Array, fmt: Format) -> Tally:
    """What ``cpu.tally`` does, with the same numbers (sums of errors: in another order)."""
    carrier = carrier_for(before.dtype)
    bias = carrier.fmt.emax
    limits = tuple(carrier.word(value) for value in (fmt.smallest_normal, limit_of(fmt)))
    by_code = np.zeros((4, 4 * bias + 4), np.int64)
    numbers, errors = np.zeros(6, np.int64), np.zeros(2)
    words = before.view(carrier.words), after.view(carrier.words)
    for start in range(0, before.size, BLOCK * 64):
        part = slice(start, start + BLOCK * 64)
        _kernel(carrier)(before[part], after[part], words[0][part], words[1][part],
                         by_code, numbers, errors, limits)  # fmt: skip
    codes = by_code.sum(axis=0)  # of ±2^e at even places, of the others at odd ones
    exponents, powers = placed(codes[::2] + codes[1::2], bias), placed(codes[::2], bias)
    if codes[1]:
        tiny = (abs(before) < carrier.fmt.smallest_normal) & (before != 0)
        add_tiny(before[tiny], exponents, powers)
    flushed, subnormal, saturated, overflowed, nan, infinite = numbers.tolist()
    ulps, worst = (errors * 2.0 ** (fmt.precision - 1)).tolist()
    return Tally(
        zero=int(codes[0]),
        flushed=flushed,
        subnormal=subnormal,
        saturated=saturated,
        overflowed=overflowed,
        nan=nan,
        infinite=infinite,
        ulps=ulps,
        worst_ulps=worst,
        exponents=exponents,
        powers=powers,
    )


@cache
def _kernel(carrier: Carrier) -> Any:
    magnitude, infinity = ~carrier.sign_mask, carrier.exponent_mask
    zero, one, point = carrier.words(0), carrier.words(1), carrier.words(carrier.fraction_bits)
    fraction = carrier.words((1 << carrier.fraction_bits) - 1)
    inverse = carrier.words(2 * carrier.fmt.emax << carrier.fraction_bits)  # 2^e to 2^-e
    block = BLOCK

    @compiled
    def place(word: Any) -> Any:
        field = shl(shr(and_(word, magnitude), point), one)
        return or_(field, where(less(zero, and_(word, fraction)), one, zero))

    @compiled
    def error_of(x: Any, y: Any, now: Any, smallest: Any) -> Any:
        power = larger(and_(now, infinity), smallest)
        return abs(y - x) * float_of(sub(inverse, power))

    @compiled_to_sum
    def sum_of_errors(x: Array, y: Array, after: Array, smallest: Any, ends: Any) -> Any:
        total, worst = 0.0, zero
        for i in range(ends[0], ends[1]):
            error = error_of(x[i], y[i], after[i], smallest)
            total += np.float64(error)
            worst = larger(word_of(error), worst)
        return total, np.float64(float_of(worst))

    def kernel(
        x: Array,
        y: Array,
        before: Array,
        after: Array,
        by_code: Array,
        numbers: Array,
        errors: Array,
        limits: Any,
    ) -> None:
        smallest, limit = limits
        inside = smaller(limit, sub(infinity, one))
        for start in range(0, x.size, block):
            stop = min(start + block, x.size)
            even = start + (stop - start) // 4 * 4
            for i in range(start, even, 4):  # four histograms: equal values do not wait
                by_code[0, place(before[i])] += 1
                by_code[1, place(before[i + 1])] += 1
                by_code[2, place(before[i + 2])] += 1
                by_code[3, place(before[i + 3])] += 1
            for i in range(even, stop):
                by_code[0, place(before[i])] += 1
            was_zero, is_zero, small, large = zero, zero, zero, zero
            for i in range(start, stop):
                was, now = and_(before[i], magnitude), and_(after[i], magnitude)
                was_zero = add(was_zero, where(less(zero, was), zero, one))
                is_zero = add(is_zero, where(less(zero, now), zero, one))
                small = add(
                    small, where(less(now, smallest), where(less(zero, now), one, zero), zero)
                )
                large = add(large, where(less(inside, larger(was, now)), one, zero))
            numbers[0] += np.int64(is_zero) - np.int64(was_zero)
            numbers[1] += np.int64(small)
            if large == zero:
                total, worst = sum_of_errors(x, y, after, smallest, (start, stop))
                errors[0] += total
                errors[1] = max(errors[1], worst)
                continue
            for i in range(start, stop):
                was, now = and_(before[i], magnitude), and_(after[i], magnitude)
                if less(was, infinity) and less(now, infinity):
                    numbers[2] += less(limit, was)
                    error = error_of(x[i], y[i], after[i], smallest)
                    errors[0] += np.float64(error)
                    errors[1] = max(errors[1], np.float64(error))
                elif less(was, infinity):
                    numbers[3] += 1
                else:
                    numbers[4 if less(infinity, was) else 5] += 1

    return compiled(kernel)
