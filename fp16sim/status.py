"""IEEE 754's five exceptions, counted: inexact, underflow, overflow, division by zero, invalid.

Source: IEEE 754-2019, section 7. ``round_to`` and ``arith`` judge every result against the exact
one. What a network stores is not judged here, since a matrix product's exact value is nowhere:
``watch`` counts what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from fp16sim import events
from fp16sim.arguments import one_of
from fp16sim.backend import Array, namespace_of
from fp16sim.events import Exceptions
from fp16sim.formats import Format
from fp16sim.kernels.reference import GOES_UP

TININESS = ("after", "before")


@dataclass
class StatusFlags:
    """How often each exception was raised; ``status_flags`` fills it."""

    #: the result is not the exact one
    inexact: int = 0
    #: the result is tiny and inexact
    underflow: int = 0
    #: with an unlimited exponent the result would be larger than the largest finite number
    overflow: int = 0
    #: an exactly infinite result of finite operands
    divide_by_zero: int = 0
    #: no useful result (0/0, the root of -1), or a signalling NaN as operand
    invalid: int = 0

    @property
    def raised(self) -> tuple[str, ...]:
        """The names of the exceptions that were raised at least once."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name))


@contextmanager
def status_flags(tininess: str = "after") -> Iterator[StatusFlags]:
    """Count the exceptions of ``round_to`` and ``arith`` inside the block, in this thread.

    tininess: whether a result counts as tiny because it is below ``smallest_normal`` "after"
        rounding it as if exponents had no limit, or "before"; the standard allows both, x86 and
        NVIDIA detect it after, ARM before. In the stochastic mode it is detected before, and
        overflow counts from where every draw overflows.

    ::

        with fs.status_flags() as status:
            fs.arith.divide(1.0, 3.0, "fp16")
        status.inexact  # 1

    Raises ValueError for another tininess.
    """
    one_of("tininess", tininess, TININESS)
    status = StatusFlags()

    def count(event: events.Event) -> None:
        if isinstance(event, Exceptions):
            status.inexact += event.inexact
            after = tininess == "after"
            status.underflow += event.underflow_after if after else event.underflow_before
            status.overflow += event.overflow
            status.divide_by_zero += event.divide_by_zero
            status.invalid += event.invalid

    with events.observe(count):
        yield status


@lru_cache(maxsize=1024)
def _borders(fmt: Format, mode: str, negative: bool) -> tuple[Border, Border]:
    """Where overflow begins, and where tininess after rounding ends."""
    spacing = Fraction(2) ** (fmt.emax - fmt.precision + 1)
    overflow = Border.above(Fraction(fmt.max), spacing, mode, negative)
    # Numbers just below 2^emin, if there were a binade of normal ones.
    spacing = Fraction(2) ** (fmt.emin - fmt.precision)
    normal = Border.above(Fraction(2) ** fmt.emin - spacing, spacing, mode, negative)
    return overflow, normal


@dataclass(frozen=True)
class Border:
    """From where on magnitudes round to more than a number of the format."""

    at: Fraction
    #: whether magnitudes must be larger than that, or may be equal
    exclusive: bool

    @classmethod
    def above(cls, number: Fraction, spacing: Fraction, mode: str, negative: bool) -> Border:
        """The border between a number and the next; found by asking the mode."""
        goes_up = GOES_UP.get(mode, GOES_UP["toward_zero"])
        steps = int(number / spacing)
        quarter, half, more = (goes_up(negative, steps, Fraction(n, 4)) for n in (1, 2, 3))
        if quarter:
            return cls(number, exclusive=True)
        if half or more:
            return cls(number + spacing / 2, exclusive=not half)
        return cls(number + spacing, exclusive=False)

    def passed_by(self, magnitude: Any) -> Any:
        """Whether a magnitude, a Fraction or an array of floats, is beyond."""
        if isinstance(magnitude, Fraction):
            return magnitude > self.at if self.exclusive else magnitude >= self.at
        try:
            at = float(self.at)
        except OverflowError:
            at = float("inf")
        # Where float64 does not have the border, its neighbours on both sides tell as well.
        exclusive = self.exclusive if at == self.at else at < self.at
        return magnitude > at if exclusive else magnitude >= at


def exceptions(
    exact: Array, result: Array, fmt: Format, mode: str, origin: events.Origin
) -> Exceptions:
    """What rounding ``exact`` to ``result`` raised.

    exact: float32 or float64, the exact values or what stands on the same side of all borders.
    """
    xp = namespace_of(exact)
    with np.errstate(all="ignore"):
        finite = xp.isfinite(exact)
        magnitude = xp.where(finite, xp.abs(exact), 0).astype(np.float64)
        invalid = xp.isnan(result) & xp.isinf(exact)
        if not fmt.signed:  # zero and negative numbers have no rounding
            invalid |= xp.isnan(result) & (exact <= 0)
        finite &= ~invalid
        inexact = finite & (exact != result)
        tiny = (magnitude < 2.0**fmt.emin) & inexact
        overflow, normal = xp.zeros_like(finite), xp.zeros_like(finite)
        for negative in (False, True):
            sign = xp.signbit(exact) == negative
            largest, smallest = _borders(fmt, mode, negative)
            overflow |= sign & finite & largest.passed_by(magnitude)
            normal |= sign & smallest.passed_by(magnitude)

    def count(mask: Array) -> int:
        return int(xp.count_nonzero(mask))

    return Exceptions(
        inexact=count(inexact),
        underflow_after=count(tiny & ~normal),
        underflow_before=count(tiny),
        overflow=count(overflow),
        divide_by_zero=0,
        invalid=count(invalid),
        origin=origin,
    )


def exceptions_of_one(
    exact: Fraction, result: float, fmt: Format, mode: str, origin: events.Origin
) -> Exceptions:
    """The same for one exact number that no float64 stands for."""
    magnitude = abs(exact)
    overflow, normal = _borders(fmt, mode, exact < 0)
    finite = np.isfinite(result)
    inexact = not finite or Fraction(result) != exact
    tiny = inexact and magnitude < Fraction(2) ** fmt.emin
    return Exceptions(
        inexact=int(inexact),
        underflow_after=int(tiny and not normal.passed_by(magnitude)),
        underflow_before=int(tiny),
        overflow=int(overflow.passed_by(magnitude)),
        divide_by_zero=0,
        invalid=0,
        origin=origin,
    )
