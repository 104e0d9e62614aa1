"""One check under way: tries a function on inputs, judges its results, collects failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from fp16sim.backend import Array, carrier_of
from fp16sim.formats import Format
from fp16sim.rounding import float_array
from fp16sim.testing import ranks, report
from fp16sim.testing.report import ConformanceError, Failure, Report, Sides

#: takes how many inputs are done, and how many there are
Progress: TypeAlias = Callable[[int, int], object]

#: how often a smaller input is looked for, at most: each time it is half as far away, or less
DESCENTS = 200


class ProblemError(Exception):
    """The function did not return what can be compared."""


class Wrong(NamedTuple):
    """Inputs with wrong results, and all about them: arrays of one shape (n,)."""

    operands: tuple[Array, ...]
    got: Array
    expected: Array
    below: Array
    above: Array
    #: places in ``report.NAMES``
    kinds: Array


@dataclass
class Trial:
    """A function with what it is compared to; ``run`` fills the report."""

    report: Report
    function: Callable[..., Any]
    #: the correct results, and for wrong ones the exact results with the numbers on both sides
    expected: Callable[..., Array]
    sides: Callable[..., tuple[Array, Sides]]
    #: the formats of operands and results
    source: Format
    fmt: Format
    ignore_sign_of_zero: bool
    max_failures: int

    def run(
        self, tried: Iterable[tuple[Array, ...]], total: int, progress: Progress | None
    ) -> Report:
        """Try all inputs; raises ConformanceError if one fails."""
        done = 0
        for operands in tried:
            done += operands[0].size
            self._try(operands)
            if progress is not None:
                progress(done, total)
        if self.report.passed:
            return self.report
        if not self.report.exhaustive:
            for kind in self.report.counts:
                self._descend(kind)
        raise ConformanceError(self.report)

    def _try(self, operands: tuple[Array, ...]) -> None:
        if not self.fmt.nans and len(operands) == 1:
            operands = (operands[0][~np.isnan(operands[0])],)
        if operands[0].size == 0:
            return
        self.report.inputs += operands[0].size
        wrong = self._wrong(operands)
        for place, kind in enumerate(report.NAMES):
            count = int(np.count_nonzero(wrong.kinds == place))
            if count:
                self.report.counts[kind] = self.report.counts.get(kind, 0) + count
                self._keep(wrong, kind)

    def _wrong(self, operands: tuple[Array, ...]) -> Wrong:
        try:
            got = self._results(operands)
        except ProblemError as problem:
            self._blame(operands, problem)
        with np.errstate(all="ignore"):  # signalling NaNs
            expected = self.expected(*operands).astype(np.float64)
            wrong = np.flatnonzero(~self._agree(got, expected))
            operands = tuple(x[wrong] for x in operands)
            got, expected = got[wrong], expected[wrong]
            if wrong.size == 0:
                return Wrong(operands, got, expected, got, got, wrong)
            exact, (below, above) = self.sides(*operands)
        kinds = report.classify(exact, got, expected, (below, above), self.fmt)
        return Wrong(operands, got, expected, below, above, kinds)

    def _results(self, operands: tuple[Array, ...]) -> Array:
        """What the function returns, as float64; it gets copies, which it may write to."""
        try:
            with np.errstate(all="ignore"):
                result = self.function(*(x.copy() for x in operands))
        except Exception as error:
            raise ProblemError(f"the function raised {type(error).__name__}: {error}") from error
        try:
            found, _ = float_array(result, "the result")
        except TypeError as error:
            raise ProblemError(f"the function returned no floats: {error}") from error
        shape = operands[0].shape
        if found.shape != shape:
            raise ProblemError(f"the function returned shape {found.shape} for shape {shape}")
        with np.errstate(all="ignore"):
            return found.astype(np.float64)

    def _agree(self, got: Array, expected: Array) -> Array:
        same: Array = got == expected
        if not self.ignore_sign_of_zero:
            same &= np.signbit(got) == np.signbit(expected)
        return same | (np.isnan(expected) & (np.isnan(got) | (not self.fmt.nans)))

    def _keep(self, wrong: Wrong, kind: str) -> None:
        """Put the smallest failures of a class into the report."""
        order = report.order_of(wrong.operands)
        order = order[wrong.kinds[order] == report.NAMES.index(kind)]
        for i in order[: self.max_failures]:
            failure = Failure(
                kind=kind,
                inputs=tuple(float(x[i]) for x in wrong.operands),
                bits=tuple(report.bit_pattern(x[i], self.source) for x in wrong.operands),
                got=float(wrong.got[i]),
                expected=float(wrong.expected[i]),
                below=float(wrong.below[i]),
                above=float(wrong.above[i]),
                source=self.source,
                fmt=self.fmt,
            )
            self.report.failures.append(failure)
        self.report.keep_smallest(self.max_failures)

    def _descend(self, kind: str) -> None:
        """From the smallest failure of a class go to smaller ones nearby, which were not tried.

        Looks 1, 2, 4, 8 ... numbers below it, and again from the farthest failure found there, so
        that the start of an interval of failures is found whatever random input fell into it.
        """
        for _ in range(DESCENTS):
            smallest = self.report.smallest(kind)
            (x,) = smallest.inputs if len(smallest.inputs) == 1 else (math.nan,)
            if not math.isfinite(x) or x == 0:
                return
            rank = ranks.ranks_of(np.array([abs(x)]), self.source)
            below = rank - (np.int64(1) << np.arange(int(rank[0]).bit_length()))
            # Down to zero only from above: not every source has another.
            least = 0 if x > 0 and self.source.signed else ranks.smallest(self.source)
            below = below[(below >= ranks.smallest(self.source)) | (below == least)]
            if below.size == 0:
                return
            smaller = np.copysign(ranks.numbers(below, self.source), x)
            self._keep(self._wrong((smaller.astype(carrier_of(self.source)),)), kind)
            if self.report.smallest(kind).bits == smallest.bits:
                return

    def _blame(self, operands: tuple[Array, ...], problem: ProblemError) -> NoReturn:
        """Find one input that is a problem by itself, and raise ConformanceError."""
        while operands[0].size > 1:
            half = operands[0].size // 2
            for part in (tuple(x[:half] for x in operands), tuple(x[half:] for x in operands)):
                try:
                    self._results(part)
                except ProblemError as smaller:
                    operands, problem = part, smaller
                    break
            else:
                break  # only together
        size = operands[0].size
        first = "for" if size == 1 else f"for {size:,} inputs at once, of which the first is"
        those = (
            report.with_bits(float(x[0]), report.bit_pattern(x[0], self.source), self.source)
            for x in operands
        )
        self.report.problem = f"{problem}\n  {first} " + ", ".join(those)
        raise ConformanceError(self.report) from problem.__cause__
