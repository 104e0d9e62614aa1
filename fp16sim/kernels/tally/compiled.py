"""Counting in passes over blocks that stay in the cache, compiled by Numba."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fp16sim.backend import Array
from fp16sim.formats import Format
from fp16sim.kernels.layout import Carrier, carrier_for
from fp16sim.kernels.tally.cpu import LOWEST_EXPONENT, Tally, add_tiny, limit_of, no_exponents
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

# Values in a block: two arrays of them, and their codes, fit the L1 cache.
BLOCK = 2**11

# Histograms that are filled in turn, so that equal neighbours do not wait for each other.
WAYS = 4


def tally(before: Array, after: Array, fmt: Format) -> Tally:
    """What ``cpu.tally`` does, with the same numbers (sums of errors: in another order)."""
    carrier = carrier_for(before.dtype)
    exponents, powers = no_exponents(), no_exponents()
    numbers, sizes = np.zeros(8, np.int64), np.zeros(3)
    words = before.view(carrier.words), after.view(carrier.words)
    limits = _limits(carrier, fmt)
    _kernel(carrier)(before, after, *words, exponents, powers, numbers, sizes, limits)
    zero_after, below, saturated, overflowed, nan, infinite, zero, tiny = numbers.tolist()
    if tiny:
        small = (abs(before) < carrier.fmt.smallest_normal) & (before != 0)
        add_tiny(before[small], exponents, powers)
    ulps, worst, largest = sizes.tolist()
    return Tally(
        zero=zero,
        flushed=max(zero_after - zero, 0),  # a format without zero has turned them away
        subnormal=below - zero_after,
        saturated=saturated,
        overflowed=overflowed,
        nan=nan,
        infinite=infinite,
        ulps=ulps * 2.0 ** (fmt.precision - 2),
        worst_ulps=worst * 2.0 ** (fmt.precision - 2),
        largest=largest,
        exponents=exponents,
        powers=powers,
    )


@cache
def _limits(carrier: Carrier, fmt: Format) -> Any:
    # A carrier to which the smallest normal number is zero still has zeros below it.
    smallest = max(fmt.smallest_normal, carrier.fmt.smallest_subnormal)
    # Errors of subnormal numbers are counted in the spacing that begins at the last of these.
    spacing = max(fmt.smallest_normal, carrier.fmt.smallest_normal)
    return tuple(carrier.word(x) for x in (smallest, limit_of(fmt), spacing))


@cache
def _kernel(carrier: Carrier) -> Any:
    magnitude, infinity = ~carrier.sign_mask, carrier.exponent_mask
    zero, one, point = carrier.words(0), carrier.words(1), carrier.words(carrier.fraction_bits)
    fraction = carrier.words((1 << carrier.fraction_bits) - 1)
    # 2^e to 2^(1-e), which is a normal number for every e.
    inverse = carrier.words((2 * carrier.fmt.emax + 1) << carrier.fraction_bits)
    block, ways = BLOCK, WAYS
    fields = 2 * carrier.fmt.emax + 2
    first = LOWEST_EXPONENT + carrier.fmt.emax  # the field of the first bin

    # Loops run over whole slices from 0: where an index might be negative, nothing is vectorised.

    @compiled
    def survey(before: Array, after: Array, smallest: Any, codes: Array) -> Any:
        zeros, small, top_before, top_after = zero, zero, zero, zero
        for i in range(before.size):
            was, now = and_(before[i], magnitude), and_(after[i], magnitude)
            power = where(less(zero, and_(was, fraction)), one, zero)
            codes[i] = or_(shl(shr(was, point), one), power)
            zeros = add(zeros, where(less(zero, now), zero, one))
            small = add(small, where(less(now, smallest), one, zero))
            top_before, top_after = larger(top_before, was), larger(top_after, now)
        return zeros, small, top_before, top_after

    @compiled
    def count(codes: Array, by_code: Array) -> None:
        rounds = codes.size // ways
        for i in range(rounds):
            by_code[0, codes[ways * i]] += 1
            by_code[1, codes[ways * i + 1]] += 1
            by_code[2, codes[ways * i + 2]] += 1
            by_code[3, codes[ways * i + 3]] += 1
        for i in range(ways * rounds, codes.size):
            by_code[0, codes[i]] += 1

    @compiled
    def fold(by_code: Array, exponents: Array, powers: Array, numbers: Array) -> None:
        for field in range(fields - 1):
            whole, others = by_code[:, 2 * field].sum(), by_code[:, 2 * field + 1].sum()
            if field == 0:
                numbers[6], numbers[7] = whole, others
            else:
                exponents[field - first] = whole + others
                powers[field - first] = whole

    @compiled
    def error_of(x: Any, y: Any, now: Any, spacing: Any) -> Any:
        power = larger(and_(now, infinity), spacing)
        return abs(y - x) * float_of(sub(inverse, power))

    @compiled_to_sum
    def sum_of_errors(x: Array, y: Array, after: Array, spacing: Any) -> Any:
        total, worst = 0.0, zero
        for i in range(x.size):
            error = error_of(x[i], y[i], after[i], spacing)
            total += np.float64(error)
            worst = larger(word_of(error), worst)
        return total, np.float64(float_of(worst))

    @compiled
    def one_by_one(
        x: Array,
        y: Array,
        before: Array,
        after: Array,
        numbers: Array,
        sizes: Array,
        limits: Any,
    ) -> None:
        _, limit, spacing = limits
        for i in range(x.size):
            was, now = and_(before[i], magnitude), and_(after[i], magnitude)
            if less(was, infinity):
                sizes[2] = max(sizes[2], np.float64(float_of(was)))
                if less(now, infinity):
                    numbers[2] += less(limit, was)
                    error = error_of(x[i], y[i], after[i], spacing)
                    sizes[0] += np.float64(error)
                    sizes[1] = max(sizes[1], np.float64(error))
                else:
                    numbers[3] += less(zero, was)
            else:
                numbers[4 if less(infinity, was) else 5] += 1

    def kernel(
        x: Array,
        y: Array,
        before: Array,
        after: Array,
        exponents: Array,
        powers: Array,
        numbers: Array,
        sizes: Array,
        limits: Any,
    ) -> None:
        smallest, limit, spacing = limits
        inside = smaller(limit, sub(infinity, one))
        codes, by_code = np.empty(block, np.uint16), np.zeros((ways, 2 * fields), np.int64)
        for start in range(0, x.size, block):
            stop = min(start + block, x.size)
            a, b, was, now = x[start:stop], y[start:stop], before[start:stop], after[start:stop]
            here = codes[: stop - start]
            zeros, small, top_before, top_after = survey(was, now, smallest, here)
            count(here, by_code)
            numbers[0] += np.int64(zeros)
            numbers[1] += np.int64(small)
            if less(inside, larger(top_before, top_after)):
                one_by_one(a, b, was, now, numbers, sizes, limits)
                continue
            sizes[2] = max(sizes[2], np.float64(float_of(top_before)))
            total, worst = sum_of_errors(a, b, now, spacing)
            sizes[0] += total
            sizes[1] = max(sizes[1], worst)
        fold(by_code, exponents, powers, numbers)

    return compiled(kernel)
