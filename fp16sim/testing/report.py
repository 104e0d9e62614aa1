"""What a check found: failures sorted into classes, the smallest of each, told in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from fp16sim.backend import Array, carrier_of
from fp16sim.formats import FP32, FP64, Format
from fp16sim.kernels.layout import carrier_for
from fp16sim.rounding import encode, round_to

#: classes of failure in the order in which they are judged: what is in none before is in the next
CLASSES = {
    "NaN": "NaN given, expected or returned",
    "infinity": "the exact result is infinite",
    "overflow": "a finite result beyond the largest number, or taken for one",
    "sign of zero": "zero of the wrong sign",
    "tie": "halfway between two numbers, the wrong one of them",
    "flushed": "zero, but the result is not zero",
    "not in format": "results that are not numbers of the format",
    "exact": "exact results, numbers of the format, that were changed",
    "subnormal": "rounded wrongly below the smallest normal number",
    "rounding": "rounded wrongly elsewhere",
}
NAMES = tuple(CLASSES)


@dataclass(frozen=True)
class Failure:
    """One wrong result."""

    #: a key of ``CLASSES``
    kind: str
    #: the operands, one for a rounding function, and their bit patterns in ``source``
    inputs: tuple[float, ...]
    bits: tuple[int, ...]
    got: float
    expected: float
    #: the numbers of the format on both sides of the exact result, or twice that result itself;
    #: infinite beyond the largest number; NaN if the exact result is NaN
    below: float
    above: float
    source: Format
    fmt: Format

    @property
    def order(self) -> tuple[list[int], list[int]]:
        """By what failures are sorted: see ``order_of``."""
        sign = 1 << (self.source.bits - 1) if self.source.signed else 0
        magnitudes = [bits & ~sign for bits in self.bits]
        return [max(magnitudes), *magnitudes], [bits & sign for bits in self.bits]

    def __str__(self) -> str:
        pairs = zip(self.inputs, self.bits, strict=True)
        lines = [f"input     {with_bits(x, bits, self.source)}" for x, bits in pairs]
        lines.append(f"got       {with_code(self.got, self.fmt)}")
        lines.append(f"expected  {with_code(self.expected, self.fmt)}")
        if self.below < self.above:
            lines.append(f"between   {with_code(self.below, self.fmt)}")
            lines.append(f"and       {with_code(self.above, self.fmt)}")
        return "\n".join(f"  {line}" for line in lines)


@dataclass
class Report:
    """What was tried, how many results were wrong, and examples."""

    #: what was checked, as a sentence: "cast rounds fp32 to fp16, ties_to_even"
    claim: str
    #: how many inputs were tried, and whether those are all there are
    inputs: int = 0
    exhaustive: bool = False
    #: how many failures there were of each class that has any, in the order of ``CLASSES``
    counts: dict[str, int] = field(default_factory=dict)
    #: the smallest failures of each class, in the same order; the smallest first
    failures: list[Failure] = field(default_factory=list)
    #: why the function's results could not be looked at, if so: it raised, or returned no floats
    problem: str | None = None

    @property
    def failed(self) -> int:
        """How many inputs gave a wrong result."""
        return sum(self.counts.values())

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return self.failed == 0 and self.problem is None

    def keep_smallest(self, count: int) -> None:
        """Sort counts and failures, and drop all but the smallest ``count`` of each class."""
        self.counts = {kind: self.counts[kind] for kind in CLASSES if kind in self.counts}
        kept = []
        for kind in self.counts:
            those = [failure for failure in self.failures if failure.kind == kind]
            kept += sorted(those, key=lambda failure: failure.order)[:count]
        self.failures = kept

    def smallest(self, kind: str) -> Failure:
        """The failure of that class with the smallest input; KeyError if there is none."""
        for failure in self.failures:
            if failure.kind == kind:
                return failure
        raise KeyError(f"no failure of class {kind!r}; there are {', '.join(self.counts) or None}")

    def __str__(self) -> str:
        extent = "all there are" if self.exhaustive else "a selection"
        if self.problem is not None:
            return f"{self.claim}: cannot tell\n\n{self.problem}"
        if self.passed:
            return f"{self.claim}: holds for {self.inputs:,} inputs, {extent}"
        parts = [f"{self.claim}: wrong for {self.failed:,} of {self.inputs:,} inputs, {extent}"]
        for kind, count in self.counts.items():
            head = f"{kind}: {count:,} ({CLASSES[kind]}), the smallest:"
            parts.append(f"{head}\n{self.smallest(kind)}")
        return "\n\n".join(parts)


class ConformanceError(AssertionError):
    """A function does not do what it was checked for; ``report`` has the details."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


#: below, above: numbers on both sides of the exact results
Sides: TypeAlias = tuple[Array, Array]


def sides_of(exact: Array, fmt: Format) -> Sides:
    """The numbers of the format on both sides of float64 values, infinities beyond the largest."""
    return round_to(exact, fmt, "toward_negative"), round_to(exact, fmt, "toward_positive")


def classify(exact: Array, got: Array, expected: Array, sides: Sides, fmt: Format) -> Array:
    """The class of each failure, as its place in ``NAMES``.

    exact: what should have been rounded: float64, exact or at least on the right side of every
    number and midpoint of the format. got, expected: float64. All of one shape (n,).
    """
    below, above = sides
    with np.errstate(all="ignore"):
        halfway = (exact - below == above - exact) & (below < above)
        wrong_one = ((got == below) | (got == above)) & ((expected == below) | (expected == above))
        beyond = np.maximum(np.maximum(abs(exact), abs(got)), abs(expected)) > fmt.max
        beyond |= abs(exact) > fmt.max  # whatever NaN is compared to
        tested = {
            "NaN": np.isnan(exact) | ((exact <= 0) & (not fmt.signed)),
            "infinity": np.isinf(exact),
            "overflow": beyond,
            "not a number": np.isnan(got) | np.isnan(expected),
            "sign of zero": (got == 0) & (expected == 0),
            "tie": halfway & wrong_one,
            "flushed": got == 0,
            "not in format": ~_same(round_to(got, fmt), got),
            "exact": exact == expected,
            "subnormal": np.minimum(abs(exact), abs(expected)) < fmt.smallest_normal,
        }
    names = ["NaN" if name == "not a number" else name for name in tested]
    places = [NAMES.index(name) for name in names]
    return np.select(list(tested.values()), places, NAMES.index("rounding"))


def _same(first: Array, second: Array) -> Array:
    """Equal bit for bit, or both NaN."""
    equal: Array = (first == second) & (np.signbit(first) == np.signbit(second))
    return equal | (np.isnan(first) & np.isnan(second))


def order_of(operands: Sequence[Array]) -> Array:
    """Sorts tuples of operands by magnitude, the largest operand's first; positive come first."""
    carrier = carrier_for(operands[0].dtype)
    words = [x.view(carrier.words) for x in operands]
    magnitudes = [word & ~carrier.sign_mask for word in words]
    keys = [word & carrier.sign_mask for word in reversed(words)]
    return np.lexsort([*keys, *reversed(magnitudes), np.maximum.reduce(magnitudes)])


def bit_pattern(x: Any, source: Format) -> int:
    """The bits of an input: a float32's or float64's own, or its code in another source."""
    if source in (FP32, FP64):
        return int(x.view(np.uint32 if source == FP32 else np.uint64))
    return int(encode(x, source))


def decimal(x: float, fmt: Format) -> str:
    """The shortest decimal that means x in the dtype that carries the format, if it has x."""
    with np.errstate(all="ignore"):
        carried = carrier_of(fmt).type(x)
    return str(carried) if carried == x else str(np.float64(x))


def with_bits(x: float, bits: int, source: Format) -> str:
    """An input in decimal and in hexadecimal bits."""
    return f"{decimal(x, source)} (0x{bits:0{(source.bits + 3) // 4}x})"


def with_code(x: float, fmt: Format) -> str:
    """A number and its code, in fields of sign, exponent and fraction."""
    try:
        code = f"{int(encode(x, fmt)):0{fmt.bits}b}"
    except ValueError:
        return f"{decimal(x, fmt)} (not a number of {fmt})"
    ends = [0, int(fmt.signed), fmt.bits - fmt.precision + 1, fmt.bits]
    fields = [code[start:end] for start, end in pairwise(ends)]
    return f"{decimal(x, fmt)} ({' '.join(part for part in fields if part)})"
