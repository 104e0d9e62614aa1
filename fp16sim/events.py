"""What happens to numbers when they are stored: the one place that sees them before and after.

*events counts, xray explains, bench measures.* The rounding layer and the optimisers announce
what they do; observers listen. When nobody does, announcing costs one look at an empty tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fp16sim.arguments import one_of
from fp16sim.backend import Array, namespace_of, to_host
from fp16sim.formats import Format


class Origin(NamedTuple):
    """Where in a computation a value is stored."""

    #: the path of the module that stored the value, and for a gradient, of the module whose value
    #: it is the gradient of, as "encoder.0"; empty outside modules
    scope: str
    #: the primitive, as "linear"; for a gradient, the one whose backward made it
    op: str
    #: what the value is: "activation", "weight", "input", or one of these with " gradient" behind
    role: str


class Rounded(NamedTuple):
    """An array was stored in a format: ``before`` and ``after`` have the same shape."""

    before: Array
    after: Array
    fmt: Format
    origin: Origin


class Exceptions(NamedTuple):
    """How often an operation raised IEEE 754's exceptions; ``status`` judges and counts."""

    inexact: int
    #: underflow, where tininess is detected after rounding, and where before
    underflow_after: int
    underflow_before: int
    overflow: int
    divide_by_zero: int
    invalid: int
    origin: Origin


class Updated(NamedTuple):
    """An optimiser moved a weight: ``after`` is ``before - update``, rounded to its format."""

    before: Array
    after: Array
    update: Array
    parameter: object


Event: TypeAlias = Rounded | Updated | Exceptions
Observer: TypeAlias = Callable[[Event], None]

_observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())
_scope: ContextVar[str] = ContextVar("scope", default="")


def observed() -> bool:
    """Whether anybody is listening."""
    return bool(_observers.get())


def announce(event: Event) -> None:
    """Hand an event to every observer."""
    for observer in _observers.get():
        observer(event)


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Call ``observer`` with every event inside the block (and in this thread only)."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


@contextmanager
def unobserved() -> Iterator[None]:
    """Nobody hears of what happens inside the block: steps of what is announced as a whole."""
    token = _observers.set(())
    try:
        yield
    finally:
        _observers.reset(token)


def current_scope() -> str:
    """The path of the scopes entered and not left, joined by dots."""
    return _scope.get()


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Name a part of the computation; scopes nest. An empty name changes nothing."""
    outer = _scope.get()
    token = _scope.set(f"{outer}.{name}" if outer and name else outer or name)
    try:
        yield
    finally:
        _scope.reset(token)


# Exponents of all finite float64 values lie in here; the histogram has a bin for each.
LOWEST_EXPONENT, HIGHEST_EXPONENT = -1074, 1023


#: what can become of a value, in the words of ``Counts``
FATES = ("zero", "flushed", "subnormal", "normal", "saturated", "overflowed", "nonfinite")


@dataclass
class Counts:
    """What became of values when they were rounded. The classes are disjoint and make up total.

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
    #: infinite or NaN before rounding already
    nonfinite: int = 0
    #: how many values had floor(log2|x|) = e *before* rounding, at index e - LOWEST_EXPONENT
    exponents: Array = field(
        default_factory=lambda: np.zeros(HIGHEST_EXPONENT - LOWEST_EXPONENT + 1, np.int64)
    )

    @property
    def normal(self) -> int:
        """Finite after rounding, with the format's full precision."""
        others: int = sum(getattr(self, name) for name in FATES if name != "normal")
        return self.total - others

    def share(self, fate: str) -> float:
        """The share of values with this fate, one of ``FATES``; NaN if nothing was counted."""
        count: int = getattr(self, one_of("fate", fate, FATES))
        return count / self.total if self.total else float("nan")

    def add(self, before: Array, after: Array, fmt: Format) -> None:
        """Count one rounding."""
        with np.errstate(all="ignore"):  # a limit may not fit the array's dtype
            self._add(before, after, fmt)

    def _add(self, before: Array, after: Array, fmt: Format) -> None:
        xp, size = namespace_of(before), int(before.size)
        zero = size - int(xp.count_nonzero(before != 0))  # faster than count_nonzero(before)
        left = after != 0
        small = xp.abs(after) < fmt.smallest_normal
        exponents = _exponent_histogram(before, zero)
        nonfinite = size - zero - int(exponents.sum())
        self.total += size
        self.zero += zero
        self.flushed += size - int(xp.count_nonzero(left)) - zero
        self.subnormal += int(xp.count_nonzero(small & left))
        # Of the values out of range the finite ones have overflowed or were saturated.
        limit = fmt.max + 2.0 ** (fmt.emax - fmt.precision)
        if nonfinite or not xp.all(xp.abs(before) <= fmt.max):
            finite = xp.isfinite(before)
            lost = finite & ~xp.isfinite(after)
            self.overflowed += int(xp.count_nonzero(lost))
            self.saturated += int(xp.count_nonzero(finite & ~lost & (xp.abs(before) > limit)))
        self.nonfinite += nonfinite
        self.exponents += exponents

    def merge(self, other: Counts) -> None:
        """Add another's counts to this one's."""
        for name in ("total", *FATES):
            if name != "normal":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self.exponents += other.exponents

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain numbers, and the exponents that occur, as {exponent: count}."""
        occupied = np.flatnonzero(self.exponents)
        return {
            "total": self.total,
            **{fate: getattr(self, fate) for fate in FATES},
            "exponents": {int(i) + LOWEST_EXPONENT: int(self.exponents[i]) for i in occupied},
        }


def _exponent_histogram(x: Array, zeros: int) -> Array:
    """How many of the finite values other than zero have floor(log2|x|) = e, for every e.

    zeros: how many of the values are zero, known already.
    """
    xp, histogram = namespace_of(x), np.zeros(HIGHEST_EXPONENT - LOWEST_EXPONENT + 1, np.int64)
    if not x.size:
        return histogram  # CuPy's bincount wants values
    # The exponent field is code = e + bias for normal numbers, and quick to count.
    if x.dtype == np.float32:
        bias = 127
        codes: Array = (x.view(np.uint32) >> np.uint32(23)).astype(np.uint8)
    else:
        bias = 1023
        codes = (x.view(np.uint64) >> np.uint64(52)).astype(np.uint16) & 0x7FF
    found = to_host(xp.bincount(codes.ravel(), minlength=2 * bias + 2))
    first = 1 - bias - LOWEST_EXPONENT
    histogram[first : first + 2 * bias] = found[1 : 2 * bias + 1]
    if found[0] != zeros:  # the carrier's own subnormals
        x = x[(codes == 0) & (x != 0)]
        exponents = xp.frexp(x)[1].astype(np.intp) - 1  # frexp: |x| in [2^(e-1), 2^e)
        places = exponents - LOWEST_EXPONENT
        histogram += to_host(xp.bincount(places, minlength=histogram.size))
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
