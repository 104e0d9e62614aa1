"""What became of values when they were stored: counted, and nothing kept but the counts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from fp16sim.arguments import one_of
from fp16sim.backend import Array, namespace_of, to_host
from fp16sim.events import Rounded, Updated
from fp16sim.formats import Format

# Exponents of all finite float64 values lie in here; a histogram has a bin for each.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -1074, 1023
_BINS = HIGHEST_EXPONENT - LOWEST_EXPONENT + 1

# Values that are counted at a time, so that what is computed on the way stays in the cache.
BLOCK = 2**16

#: what can become of a value, in the words of ``Counts``
FATES = (
    "zero",
    "flushed",
    "subnormal",
    "normal",
    "saturated",
    "overflowed",
    "created",
    "propagated",
)


def _no_exponents() -> Array:
    return np.zeros(_BINS, np.int64)


@dataclass
class Counts:
    """What became of values when they were rounded. The fates are disjoint and make up total.

    ``flushed`` counts values that were *not* zero before and are after: an exact zero (a dead
    unit) is in ``zero``. ``overflowed`` counts finite values that became infinite or NaN.
    """

    total: int = 0
    #: exactly zero before rounding already
    zero: int = 0
    #: not zero before, zero after
    flushed: int = 0
    #: not zero after, smaller than the format's smallest normal number
    subnormal: int = 0
    #: beyond the largest number by more than half its spacing, and yet finite after rounding
    saturated: int = 0
    #: finite before, not after
    overflowed: int = 0
    #: infinite or NaN before rounding, and made so by this operation: NaN of no NaN, infinity of
    #: finite numbers
    created: int = 0
    #: infinite or NaN before rounding, because the operation was given such
    propagated: int = 0
    #: the sum of |after - before| over the spacing of the format's numbers at after, over all
    #: values that are finite after rounding
    ulps: float = 0.0
    #: the largest of these errors
    worst_ulps: float = 0.0
    #: how many values had floor(log2|x|) = e *before* rounding, at index e - LOWEST_EXPONENT
    exponents: Array = field(default_factory=_no_exponents)
    #: how many of these were just ±2^e
    powers: Array = field(default_factory=_no_exponents)

    @property
    def normal(self) -> int:
        """Finite after rounding, with the format's full precision."""
        others: int = sum(getattr(self, name) for name in FATES if name != "normal")
        return self.total - others

    @property
    def nonfinite(self) -> int:
        """Infinite or NaN before rounding."""
        return self.created + self.propagated

    @property
    def mean_ulps(self) -> float:
        """The mean rounding error in ulps of values that are not zero; NaN if there are none."""
        number = self.total - self.zero - self.nonfinite - self.overflowed
        return self.ulps / number if number else float("nan")

    @property
    def lost(self) -> float:
        """The share of the values other than zero of which nothing, or nothing true, is left."""
        gone = self.flushed + self.saturated + self.overflowed + self.nonfinite
        return gone / (self.total - self.zero) if self.total > self.zero else 0.0

    def share(self, fate: str) -> float:
        """The share of values with this fate, one of ``FATES``; NaN if nothing was counted."""
        count: int = getattr(self, one_of("fate", fate, FATES))
        return count / self.total if self.total else float("nan")

    def add(self, event: Rounded) -> None:
        """Count one rounding."""
        before, after = event.before.reshape(-1), event.after.reshape(-1)
        width = BLOCK if namespace_of(before) is np else max(before.size, 1)
        nans = infinities = 0
        with np.errstate(all="ignore"):  # a limit may not fit the array's dtype
            for start in range(0, before.size, width):
                part = slice(start, start + width)
                nan, infinite = self._add(before[part], after[part], event)
                nans, infinities = nans + nan, infinities + infinite
        if nans or infinities:
            nan_given, infinity_given = _given(event.sources)
            self.created += (0 if nan_given else nans) + (0 if infinity_given else infinities)
            self.propagated += (nans if nan_given else 0) + (infinities if infinity_given else 0)

    def _add(self, before: Array, after: Array, event: Rounded) -> tuple[int, int]:
        """Count a block; how many values were NaN before, and how many infinite."""
        xp, size, fmt = namespace_of(before), int(before.size), event.fmt
        exponents, powers = _histograms(before)
        self.exponents += exponents
        self.powers += powers
        zero = size - int(xp.count_nonzero(before != 0))  # faster than count_nonzero(before)
        left = after != 0
        small = xp.abs(after) < fmt.smallest_normal
        nonfinite = size - zero - int(exponents.sum())
        nan = int(xp.count_nonzero(before != before)) if nonfinite else 0
        self.total += size
        self.zero += zero
        self.flushed += size - int(xp.count_nonzero(left)) - zero
        self.subnormal += int(xp.count_nonzero(small & left))
        exact = event.after is event.before
        # Of the values out of range the finite ones have overflowed or were saturated.
        if nonfinite or exponents[fmt.emax - LOWEST_EXPONENT :].any():
            limit = fmt.max + 2.0 ** (fmt.emax - fmt.precision)
            known, kept = xp.isfinite(before), xp.isfinite(after)
            self.overflowed += int(xp.count_nonzero(known & ~kept))
            self.saturated += int(xp.count_nonzero(known & kept & (xp.abs(before) > limit)))
            before, after = before[known & kept], after[known & kept]
        if not exact and after.size:
            errors = _errors(before, after, fmt)
            self.ulps += float(errors.sum(dtype=np.float64))
            self.worst_ulps = max(self.worst_ulps, float(errors.max()))
        return nan, nonfinite - nan

    def merge(self, other: Counts) -> None:
        """Add another's counts to this one's."""
        for one in fields(self):
            if one.name != "worst_ulps":
                setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.worst_ulps = max(self.worst_ulps, other.worst_ulps)

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain numbers, and the exponents that occur, as {exponent: count}."""
        occupied = np.flatnonzero(self.exponents)
        return {
            "total": self.total,
            **{fate: getattr(self, fate) for fate in FATES},
            "ulps": self.ulps,
            "worst_ulps": self.worst_ulps,
            "exponents": {int(i) + LOWEST_EXPONENT: int(self.exponents[i]) for i in occupied},
        }


def _given(sources: tuple[Any, ...]) -> tuple[bool, bool]:
    """Whether a NaN, and whether an infinity, may have come from what the operation was given.

    Only finite numbers cannot make an operation return either, but by its own doing.
    """
    arrays = [x for x in sources if getattr(getattr(x, "dtype", None), "kind", "") == "f"]
    if not arrays:
        return True, True  # values that a caller rounds, of unknown origin
    nan = any(bool((x != x).any()) for x in arrays)
    return nan, nan or any(bool(namespace_of(x).isinf(x).any()) for x in arrays)


def _errors(before: Array, after: Array, fmt: Format) -> Array:
    """|after - before| in ulps: in spacings of the format at ``after``; all finite."""
    xp = namespace_of(after)
    if after.dtype == np.float32:
        powers: Array = after.view(np.uint32) & np.uint32(0xFF << 23)
    else:
        powers = after.view(np.uint64) & np.uint64(0x7FF << 52)
    spacing = powers.view(after.dtype)  # 2^e, or 0
    xp.maximum(spacing, fmt.smallest_normal, out=spacing)
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
        return _no_exponents(), _no_exponents()  # CuPy's bincount wants values
    # The exponent field is code = e + bias for normal numbers, and quick to count.
    if x.dtype == np.float32:
        bits, bias = x.view(np.uint32), 127
        codes: Array = (bits >> np.uint32(23)).astype(np.uint8)
        whole = (bits << np.uint32(9)) == 0
    else:
        bits, bias = x.view(np.uint64), 1023
        codes = (bits >> np.uint64(52)).astype(np.uint16) & 0x7FF
        whole = (bits << np.uint64(12)) == 0
    histograms = [_by_code(codes, bias), _by_code(codes[whole], bias)]
    tiny = (codes == 0) & ~whole
    if tiny.any():  # the carrier's own subnormals
        significands, exponents = namespace_of(x).frexp(x[tiny])  # |x| in [2^(e-1), 2^e)
        places = exponents.astype(np.intp) - 1 - LOWEST_EXPONENT
        powers = places[abs(significands) == 0.5]
        for histogram, found in zip(histograms, (places, powers), strict=True):
            histogram += to_host(namespace_of(x).bincount(found, minlength=_BINS))
    return histograms[0], histograms[1]


def _by_code(codes: Array, bias: int) -> Array:
    histogram = _no_exponents()
    if codes.size:
        found = to_host(namespace_of(codes).bincount(codes, minlength=2 * bias + 2))
        first = 1 - bias - LOWEST_EXPONENT
        histogram[first : first + 2 * bias] = found[1 : 2 * bias + 1]
    return histogram


@dataclass
class UpdateCounts:
    """What became of weight updates."""

    total: int = 0
    #: the update was exactly zero
    zero: int = 0
    #: the update was not zero, and the weight is what it was: lost in rounding the sum
    swamped: int = 0

    def add(self, event: Updated) -> None:
        """Count one update."""
        xp = namespace_of(event.after)
        unchanged = event.after == event.before
        zero = event.update == 0
        self.total += int(unchanged.size)
        self.zero += int(xp.count_nonzero(zero))
        self.swamped += int(xp.count_nonzero(unchanged & ~zero))

    def merge(self, other: UpdateCounts) -> None:
        """Add another's counts to this one's."""
        self.total += other.total
        self.zero += other.zero
        self.swamped += other.swamped

    @property
    def unchanged_share(self) -> float:
        """Weights that stayed what they were, over all; NaN if nothing was counted."""
        return (self.zero + self.swamped) / self.total if self.total else float("nan")
