"""Counting in array code, block by block on the host."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from fp16sim.backend import Array, namespace_of, to_host
from fp16sim.formats import Format
from fp16sim.kernels.layout import carrier_for

# Exponents of all finite float64 values lie in here; a histogram has a bin for each.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -1074, 1023
BINS = HIGHEST_EXPONENT - LOWEST_EXPONENT + 1

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
    exponents: Array = field(default_factory=no_exponents)
    powers: Array = field(default_factory=no_exponents)

    def merge(self, other: Tally) -> None:
        """Add another's numbers."""
        for one in fields(self):
            if one.name != "worst_ulps":
                setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.worst_ulps = max(self.worst_ulps, other.worst_ulps)


def limit_of(fmt: Format) -> float:
    """From here on values are out of range: past the largest number by half its spacing."""
    return fmt.max + 2.0 ** (fmt.emax - fmt.precision)


def tally(before: Array, after: Array, fmt: Format) -> Tally:
    """Count flat arrays of one dtype; one and the same array if rounding has changed nothing."""
    total, exact = Tally(), after is before
    width = BLOCK if namespace_of(before) is np else max(before.size, 1)
    with np.errstate(all="ignore"):  # a limit may not fit the arrays' dtype
        for start in range(0, before.size, width):
            part = slice(start, start + width)
            total.merge(_tally(before[part], after[part], fmt, exact))
    return total


def _tally(before: Array, after: Array, fmt: Format, exact: bool) -> Tally:
    xp, size = namespace_of(before), int(before.size)
    one = Tally()
    one.exponents, one.powers = _histograms(before)
    one.zero = size - int(xp.count_nonzero(before != 0))  # faster than count_nonzero(before)
    left = after != 0
    small = xp.abs(after) < fmt.smallest_normal
    one.flushed = size - int(xp.count_nonzero(left)) - one.zero
    one.subnormal = int(xp.count_nonzero(small & left))
    nonfinite = size - one.zero - int(one.exponents.sum())
    # Of the values out of range the finite ones have overflowed or were saturated.
    if nonfinite or one.exponents[fmt.emax - LOWEST_EXPONENT :].any():
        known, kept = xp.isfinite(before), xp.isfinite(after)
        one.nan = int(xp.count_nonzero(before != before)) if nonfinite else 0
        one.infinite = nonfinite - one.nan
        one.overflowed = int(xp.count_nonzero(known & ~kept))
        one.saturated = int(xp.count_nonzero(known & kept & (xp.abs(before) > limit_of(fmt))))
        before, after = before[known & kept], after[known & kept]
    if after.size and not exact:
        errors = _errors(before, after, fmt)
        one.ulps, one.worst_ulps = float(errors.sum(dtype=np.float64)), float(errors.max())
    return one


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


def _histograms(x: Array) -> tuple[Array, Array]:
    """How many of the finite values other than zero have floor(log2|x|) = e, for every e.

    And how many of them are just ±2^e.
    """
    if not x.size:
        return no_exponents(), no_exponents()  # CuPy's bincount wants values
    # The exponent field is code = e + bias for normal numbers, and quick to count.
    if x.dtype == np.float32:
        bits, bias = x.view(np.uint32), 127
        codes: Array = (bits >> np.uint32(23)).astype(np.uint8)
        whole = (bits << np.uint32(9)) == 0
    else:
        bits, bias = x.view(np.uint64), 1023
        codes = (bits >> np.uint64(52)).astype(np.uint16) & 0x7FF
        whole = (bits << np.uint64(12)) == 0
    exponents, powers = (placed(_bincount(c, 2 * bias + 2), bias) for c in (codes, codes[whole]))
    tiny = (codes == 0) & ~whole
    if tiny.any():
        add_tiny(x[tiny], exponents, powers)
    return exponents, powers


def _bincount(codes: Array, bins: int) -> Array:
    if not codes.size:
        return np.zeros(bins, np.int64)
    return to_host(namespace_of(codes).bincount(codes, minlength=bins))


def placed(by_code: Array, bias: int) -> Array:
    """A histogram of exponents from one of exponent fields."""
    histogram = no_exponents()
    first = 1 - bias - LOWEST_EXPONENT
    histogram[first : first + 2 * bias] = by_code[1 : 2 * bias + 1]
    return histogram


def add_tiny(x: Array, exponents: Array, powers: Array) -> None:
    """Add the carrier's own subnormal numbers to both histograms."""
    xp = namespace_of(x)
    significands, places = xp.frexp(x)  # |x| in [2^(e-1), 2^e)
    places = places.astype(np.intp) - 1 - LOWEST_EXPONENT
    for histogram, found in ((exponents, places), (powers, places[abs(significands) == 0.5])):
        histogram += _bincount(found, BINS)
