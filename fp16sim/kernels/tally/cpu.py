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
BLOCK = 2**16


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
    xp, size = namespace_of(before), int(before.size)
    one = Tally()
    one.zero, one.exponents, one.powers = _count_exponents(before)
    nonfinite = size - one.zero - int(one.exponents.sum())
    # What is not small before is not small after.
    one.subnormal = int(one.exponents[: fmt.emin - LOWEST_EXPONENT].sum())
    if one.subnormal and not exact:
        zeros = size - int(xp.count_nonzero(after != 0))  # faster than count_nonzero(after)
        one.flushed = max(zeros - one.zero, 0)  # a format without zero has turned them away
        one.subnormal = int(xp.count_nonzero(xp.abs(after) < fmt.smallest_normal)) - zeros
    # Of the values out of range the finite ones have overflowed or were saturated.
    beyond = one.exponents[fmt.emax - LOWEST_EXPONENT :].any() or not fmt.signed  # -1 to NaN
    if nonfinite or beyond:
        known, kept = xp.isfinite(before), xp.isfinite(after)
        one.nan = int(xp.count_nonzero(before != before)) if nonfinite else 0
        one.infinite = nonfinite - one.nan
        one.overflowed = int(xp.count_nonzero(known & ~kept & (before != 0)))
        one.saturated = int(xp.count_nonzero(known & kept & (xp.abs(before) > limit_of(fmt))))
        one.largest = _largest(before[known])
        before, after = before[known & kept], after[known & kept]
    else:
        one.largest = _largest(before)
    if after.size and not exact:
        errors = _errors(before, after, fmt)
        one.ulps, one.worst_ulps = float(errors.sum(dtype=np.float64)), float(errors.max())
    return one


def _largest(x: Array) -> float:
    return max(float(x.max()), -float(x.min())) if x.size else 0.0


def _errors(before: Array, after: Array, fmt: Format) -> Array:
    """|after - before| in ulps: in spacings of the format at ``after``; all finite."""
    xp, carrier = namespace_of(after), carrier_for(after.dtype)
    spacing = (after.view(carrier.words) & carrier.exponent_mask).view(after.dtype)  # 2^e, or 0
    xp.maximum(spacing, max(fmt.smallest_normal, carrier.fmt.smallest_normal), out=spacing)
    errors: Array = after - before
    xp.abs(errors, out=errors)
    errors /= spacing
    errors *= 2.0 ** (fmt.precision - 1)
    return errors


def _count_exponents(x: Array) -> tuple[int, Array, Array]:
    """How many values are zero, and of those that are not, how many have floor(log2|x|) = e.

    And how many of these are just ±2^e; both for every e.
    """
    if not x.size:
        return 0, no_exponents(), no_exponents()  # CuPy's bincount wants values
    # The exponent field is e + bias for normal numbers. Behind it, whether anything follows.
    carrier = carrier_for(x.dtype)
    bits, bias, point = x.view(carrier.words), carrier.fmt.emax, carrier.fraction_bits
    codes: Array = (bits >> carrier.words(point - 1)).astype(np.uint16)
    codes &= np.uint16(4 * bias + 2)
    codes |= bits << carrier.words(carrier.fmt.bits - point) != 0
    whole, others = _bincount(codes, 4 * bias + 4).reshape(-1, 2).T
    exponents, powers = no_exponents(), no_exponents()
    normal = slice(1 - bias - LOWEST_EXPONENT, 1 + bias - LOWEST_EXPONENT)
    exponents[normal], powers[normal] = (whole + others)[1:-1], whole[1:-1]
    if others[0]:
        add_tiny(x[codes == 1], exponents, powers)
    return int(whole[0]), exponents, powers


def _bincount(codes: Array, bins: int) -> Array:
    if not codes.size:
        return np.zeros(bins, np.int64)
    return to_host(namespace_of(codes).bincount(codes, minlength=bins))


def add_tiny(x: Array, exponents: Array, powers: Array) -> None:
    """Add the carrier's own subnormal numbers to both histograms."""
    xp = namespace_of(x)
    significands, places = xp.frexp(x)  # |x| in [2^(e-1), 2^e)
    places = places.astype(np.intp) - 1 - LOWEST_EXPONENT
    for histogram, found in ((exponents, places), (powers, places[abs(significands) == 0.5])):
        histogram += _bincount(found, BINS)
