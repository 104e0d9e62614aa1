"""What became of values when they were stored: counted, and nothing kept but the counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fp16sim.arguments import one_of
from fp16sim.backend import Array, carried, namespace_of
from fp16sim.events import Rounded, Updated
from fp16sim.kernels import compiled_if_worth
from fp16sim.kernels.tally import cpu
from fp16sim.kernels.tally.cpu import HIGHEST_EXPONENT, LOWEST_EXPONENT, add_to, no_exponents

__all__ = ["FATES", "HIGHEST_EXPONENT", "LOWEST_EXPONENT", "Counts", "UpdateCounts"]

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
    #: the largest finite magnitude *before* rounding; 0 if there is none
    largest: float = 0.0
    #: how many values had floor(log2|x|) = e *before* rounding, at index e - LOWEST_EXPONENT
    exponents: Array = field(default_factory=no_exponents)
    #: how many of these were just ±2^e
    powers: Array = field(default_factory=no_exponents)

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

    @classmethod
    def of(cls, event: Rounded) -> Counts:
        """What became of values in one rounding."""
        before = event.before.reshape(-1)
        after = before if event.after is event.before else event.after.reshape(-1)
        found = _executor(before).tally(before, after, event.fmt)
        nan_given = infinity_given = False
        if found.nan or found.infinite:
            nan_given, infinity_given = _given(event.sources)
        return cls(
            total=int(before.size),
            zero=found.zero,
            flushed=found.flushed,
            subnormal=found.subnormal,
            saturated=found.saturated,
            overflowed=found.overflowed,
            created=found.nan * (not nan_given) + found.infinite * (not infinity_given),
            propagated=found.nan * nan_given + found.infinite * infinity_given,
            ulps=found.ulps,
            worst_ulps=found.worst_ulps,
            largest=found.largest,
            exponents=found.exponents,
            powers=found.powers,
        )

    def merge(self, other: Counts) -> None:
        """Add another's counts to this one's."""
        add_to(self, other)

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain numbers, and the exponents that occur, as {exponent: count}."""
        occupied = np.flatnonzero(self.exponents)
        return {
            "total": self.total,
            **{fate: getattr(self, fate) for fate in FATES},
            "ulps": self.ulps,
            "worst_ulps": self.worst_ulps,
            "largest": self.largest,
            "exponents": {int(i) + LOWEST_EXPONENT: int(self.exponents[i]) for i in occupied},
        }


def _given(sources: tuple[Any, ...]) -> tuple[bool, bool]:
    """Whether a NaN, and whether an infinity, may have come from what the operation was given.

    Only finite numbers cannot make an operation return either, but by its own doing.
    """
    arrays = [carried(x) for x in sources if hasattr(x, "dtype")]
    arrays = [x for x in arrays if x.dtype.kind == "f"]
    if not arrays:
        return True, True  # values that a caller rounds, of unknown origin
    nan = any(bool((x != x).any()) for x in arrays)
    return nan, nan or any(bool(namespace_of(x).isinf(x).any()) for x in arrays)


# NumPy counts this many values in about the time that loading Numba takes.
WORTH_LOADING = 2**26
_counted = 0


def _executor(x: Array) -> Any:
    """Whose ``tally`` counts this array: compiled where rounding is, or after much counting."""
    global _counted
    if namespace_of(x) is not np:
        return cpu
    _counted += x.size
    return compiled_if_worth(_counted / WORTH_LOADING, ".tally") or cpu


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
