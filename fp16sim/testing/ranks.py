"""The numbers of a format in a row: the rank of a number is its place, and neighbours differ by 1.

The rank of zero is 0; that of a positive number is its bit pattern, as if the exponent field had
no top: the exponent's place times 2^(p-1), plus the fraction. Formats without subnormals have no
number at the ranks between zero and 2^(p-1); formats without zero begin at 2^(p-1). Source: the
order of encodings in IEEE 754-2019, section 3.4; H. Warren, "Hacker's Delight", chapter 17.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from fp16sim.backend import Array
from fp16sim.formats import Format
from fp16sim.kernels.reference import exponent_of


def per_binade(fmt: Format) -> int:
    """How many numbers share an exponent: 2^(p-1)."""
    return 1 << (fmt.precision - 1)


def smallest(fmt: Format) -> int:
    """The rank of the smallest positive number."""
    return 1 if fmt.subnormals else per_binade(fmt)


def lowest(fmt: Format) -> int:
    """The rank of the number of least magnitude: zero, or the smallest if there is no zero."""
    return 0 if fmt.signed else smallest(fmt)


def largest(fmt: Format) -> int:
    """The rank of ``fmt.max``."""
    return floor(Fraction(fmt.max), fmt)


def clip(rank: int, fmt: Format, top: int) -> int:
    """A rank at which there is a number: one below the smallest becomes the lowest; at most top."""
    return min(rank, top) if rank >= smallest(fmt) else lowest(fmt)


def following(rank: int, fmt: Format) -> int:
    """The rank of the next number in a format of unlimited exponent."""
    return max(rank + 1, smallest(fmt))


def preceding(rank: int, fmt: Format) -> int:
    """The rank of the number before, which for the least of all is itself."""
    return rank - 1 if rank > smallest(fmt) else lowest(fmt)


def number(rank: int, fmt: Format) -> Fraction:
    """The number at a rank, exactly; also beyond the largest, as if exponents had no limit."""
    place = max(rank >> (fmt.precision - 1), 1) - 1
    spacing = Fraction(2) ** (place + fmt.emin - fmt.precision + 1)
    return (rank - place * per_binade(fmt)) * spacing


def floor(magnitude: Fraction, fmt: Format) -> int:
    """The rank of the largest number that is at most ``magnitude`` >= 0, or else of the least."""
    if magnitude == 0:
        return lowest(fmt)
    exponent = max(exponent_of(magnitude), fmt.emin)
    steps = magnitude // Fraction(2) ** (exponent - fmt.precision + 1)
    rank = (exponent - fmt.emin) * per_binade(fmt) + steps
    return rank if rank >= smallest(fmt) else lowest(fmt)


def numbers(ranks: Array, fmt: Format) -> Array:
    """``number`` for an int64 array, as float64; ranks beyond that range give infinity."""
    place = np.maximum(ranks >> (fmt.precision - 1), 1) - 1
    steps = (ranks - place * per_binade(fmt)).astype(np.float64)
    with np.errstate(over="ignore"):
        found: Array = np.ldexp(steps, place + (fmt.emin - fmt.precision + 1))
    return found


def ranks_of(magnitudes: Array, fmt: Format) -> Array:
    """The ranks, int64, of non-negative float64 values that are finite numbers of the format."""
    exponent = np.maximum(np.frexp(magnitudes)[1] - 1, fmt.emin)
    exponent = np.where(magnitudes == 0, fmt.emin, exponent).astype(np.int64)
    steps = np.ldexp(magnitudes, fmt.precision - 1 - exponent).astype(np.int64)
    ranks: Array = (exponent - fmt.emin) * per_binade(fmt) + steps
    return ranks


def around(ranks: Array, fmt: Format) -> Array:
    """The ranks with those before and after each, finite numbers all; three times as many."""
    before = np.where(ranks > smallest(fmt), ranks - 1, lowest(fmt))
    after = np.minimum(np.maximum(ranks + 1, smallest(fmt)), largest(fmt))
    return np.concatenate([ranks, before, after])
