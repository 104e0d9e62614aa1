"""Counting in array code, block by block on the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fp16sim.backend import Array, namespace_of, to_host
from fp16sim.formats import Format
from fp16sim.kernels.layout import carrier_for

# Exponents of all finite float64 values lie in here; a histogram has a bin for each.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -1074, 1023
BINS = HIGHEST_EXPONENT - LOWEST_EXPONENT + 1

# What is no sum.
MAXIMA = ("worst_ulps", "largest")

# Values that are counted at a time, so that what is computed on the way stays in the cache.
BLOCK = 2**18

# From so many values on a histogram of pairs is faster than one of values.
PAIRS = 2**16


def no_exponents() -> Array:
    """An empty histogram."""
    return np.zeros(BINS, np.int64)


@dataclass
class Tally:
    """Numbers of values; ``counts.Counts`` says of each what it means."""

    zero: int = 0
    flushed: int = 0
    subnormal: int = 0
    saturated: int = 0
    overflowed: int = 0
    #: before rounding
    nan: int = 0
    infinite: int = 0
    #: sum and maximum of rounding errors
    ulps: float = 0.0
    worst_ulps: float = 0.0
    #: the largest finite magnitude before rounding; 0 if there is none
    largest: float = 0.0
    exponents: Array = field(default_factory=no_exponents)
    powers: Array = field(default_factory=no_exponents)

    def merge(self, other: Tally) -> None:
        """Add another's numbers."""
        add_to(self, other)


def add_to(total: Any, other: Any) -> None:
    """Add all fields of one dataclass of counts to another's, but keep the larger of maxima."""
    ours, theirs = vars(total), vars(other)
    for name, value in theirs.items():
        if name in MAXIMA:
            ours[name] = max(ours[name], value)
        else:
            ours[name] += value  # histograms: in place


def limit_of(fmt: Format) -> float:
    """From here on values are out of range: past the largest number by half its spacing."""
    return fmt.max + 2.0 ** (fmt.emax - fmt.precision)


def tally(before: Array, after: Array, fmt: Format) -> Tally:
    """Count flat arrays of one dtype; one and the same array if rounding has changed nothing."""
    exact = after is before
    width = BLOCK if namespace_of(before) is np else max(before.size, 1)
    with np.errstate(all="ignore"):  # a limit may not fit the arrays' dtype
        total = _tally(before[:width], after[:width], fmt, exact)
        for start in range(width, before.size, width):
            part = slice(start, start + width)
            total.merge(_tally(before[part], after[part], fmt, exact))
    return total


def _tally(before: Array, after: Array, fmt: Format, exact: bool) -> Tally:
    xp, size, one = namespace_of(before), int(before.size), Tally()
    if not size:
        return one  # CuPy's bincount wants values
    bias = carrier_for(before.dtype).fmt.emax
    one.zero, fields = _count_exponents(before, one)
    nonfinite = int(fields[-1])
    # What is not small before is not small after.
    one.subnormal = int(one.exponents[: fmt.emin - LOWEST_EXPONENT].sum())
    if one.subnormal and not exact:
        zeros = size - _count(after != 0)  # faster than count_nonzero(after)
        one.flushed = max(zeros - one.zero, 0)  # a format without zero has turned them away
        one.subnormal = _count(xp.abs(after) < fmt.smallest_normal) - zeros
    # Of the values out of range the finite ones have overflowed or were saturated.
    beyond = fields[max(fmt.emax + bias, 0) :].any() or not fmt.signed  # -1 to NaN
    if nonfinite or beyond:
        known, kept = xp.isfinite(before), xp.isfinite(after)
        one.nan = _count(before != before) if nonfinite else 0
        one.infinite = nonfinite - one.nan
        one.overflowed = _count(known & ~kept & (before != 0))
        one.saturated = _count(known & kept & (xp.abs(before) > limit_of(fmt)))
        one.largest = _largest(before[known])
        before, after = before[known & kept], after[known & kept]
    else:
        one.largest = _largest(before)
    if after.size and not exact:
        errors, ulps = _errors(before, after, fmt), 2.0 ** (fmt.precision - 1)
        one.ulps = ulps * float(errors.sum(dtype=np.float64))
        one.worst_ulps = ulps * float(errors.max())
    return one


def _largest(x: Array) -> float:
    return max(float(x.max()), -float(x.min())) if x.size else 0.0


def _errors(before: Array, after: Array, fmt: Format) -> Array:
    """|after - before| over 2^e, the power of two at or below ``after``; all finite."""
    xp, carrier = namespace_of(after), carrier_for(after.dtype)
    powers = (after.view(carrier.words) & carrier.exponent_mask).view(after.dtype)  # 2^e, or 0
    xp.maximum(powers, max(fmt.smallest_normal, carrier.fmt.smallest_normal), out=powers)
    errors: Array = after - before
    xp.abs(errors, out=errors)
    errors /= powers
    return errors


def _count_exponents(x: Array, one: Tally) -> tuple[int, Array]:
    """How many values are zero, and how many have which exponent field, on the host.

    Adds to one's histograms how many of the others have floor(log2|x|) = e, and how many of these
    are just ±2^e, for every e.
    """
    # The exponent field is e + bias for normal numbers, 0 for zeros and the carrier's subnormals.
    carrier = carrier_for(x.dtype)
    words, bias = x.view(carrier.words), carrier.fmt.emax
    codes: Array = words >> carrier.words(carrier.fraction_bits)
    if carrier.fmt.exponent_bits == 8:
        codes = codes.astype(np.uint8)  # which cuts off the sign
    else:
        codes = codes.astype(np.uint16) & np.uint16(2 * bias + 1)
    fields = _bincount(codes, 2 * bias + 2)
    alone = words & ~(carrier.exponent_mask | carrier.sign_mask) == 0  # ±2^e, zero or infinite
    normal = slice(1 - bias - LOWEST_EXPONENT, 1 + bias - LOWEST_EXPONENT)
    one.exponents[normal] = fields[1:-1]
    count, zero = _count(alone), 0
    if fields[0]:
        other = x != 0
        zero = int(x.size) - _count(other)
        if fields[0] > zero:
            add_tiny(x[(codes == 0) & other], one.exponents, one.powers)
        if zero:
            alone &= other
    if count > zero:
        one.powers[normal] += _bincount(codes[alone], 2 * bias + 2)[1:-1]
    return zero, fields


def _count(true: Array) -> int:
    return int(namespace_of(true).count_nonzero(true))


def _bincount(codes: Array, bins: int) -> Array:
    """How often each of 0 .. bins - 1 is among the codes; on the host."""
    if not codes.size:
        return np.zeros(bins, np.int64)
    if codes.dtype == np.uint8 and codes.size >= PAIRS and namespace_of(codes) is np:
        # Two at a time: half as many additions that wait for their turn.
        pairs = np.bincount(codes[: codes.size & -2].view(np.uint16), minlength=2**16)
        counts = pairs.reshape(2**8, 2**8)
        total: Array = counts.sum(axis=0) + counts.sum(axis=1)
        if codes.size % 2:
            total[codes[-1]] += 1
        return total
    return to_host(namespace_of(codes).bincount(codes, minlength=bins))


def add_tiny(x: Array, exponents: Array, powers: Array) -> None:
    """Add the carrier's own subnormal numbers to both histograms."""
    xp = namespace_of(x)
    significands, places = xp.frexp(x)  # |x| in [2^(e-1), 2^e)
    places = places.astype(np.intp) - 1 - LOWEST_EXPONENT
    for histogram, found in ((exponents, places), (powers, places[abs(significands) == 0.5])):
        histogram += _bincount(found, BINS)
