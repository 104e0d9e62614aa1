"""Arithmetic rounded to nearest-even, as fast as plain NumPy can.

It computes in float32 or float64 and rounds the result in place, with the processor's adder (see
``kernels.cpu``). That is two roundings, and the same as one where the first has room:

*Products* of numbers with at most half the carrier's bits are exact in it.

*Sums* of two numbers of p bits, rounded to t >= 2p + 2 bits and then to p, are as if rounded once
(Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30(3), 1995). Below 2^emin they
are exact: both numbers are multiples of the smallest subnormal one.

*fma*, of factors of at most 12 bits, for formats with emax - emin + p + 2 <= 53, in float64: let
2^e <= |x y| < 2^(e+1); its last bit is at least 2^(e-23), that of s at least 2^(emin-p+1). If
e > emax + 1, then x y + s is beyond the largest number by more than half its spacing, and so is
its rounding to float64. Else, if float64 cannot hold x y + s, the last bit is that of x y and the
sum has more than 53 from there, so |s| > 2^(e+28): far too large for x y to reach a midpoint
beside s, before or after rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fp16sim.backend import Array
from fp16sim.formats import FP32, FP64, Format
from fp16sim.kernels.cpu import BLOCK, magic_constants, overflow
from fp16sim.kernels.layout import FLOAT32, FLOAT64, Carrier, has_magic


class Factors(NamedTuple):
    """What is known of two arrays of factors."""

    #: both are float32, not float64
    float32: bool
    #: no significand has more than 12 bits
    short: bool
    #: neither infinities nor NaN
    finite: bool
    #: of the finite products but zero, smallest <= |x y| <= largest; 1 and 0 if there are none
    smallest: float
    largest: float


def factors(x: Array, y: Array) -> Factors:
    """Look at two arrays of one dtype."""
    return Factors(
        x.dtype == np.float32,
        *(all(both) for both in zip(_is_short_and_finite(x), _is_short_and_finite(y), strict=True)),
        *(math.prod(both) for both in zip(_sizes(x), _sizes(y), strict=True)),
    )


def _blocks(x: Array) -> Iterator[Array]:
    flat = x.reshape(-1)
    return (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))


def _is_short_and_finite(x: Array) -> tuple[bool, bool]:
    float32 = x.dtype == np.float32
    short = float32 and not any((b.view(np.uint32) & np.uint32(0xFFF)).any() for b in _blocks(x))
    return short, all(bool(np.isfinite(block).all()) for block in _blocks(x))


def _sizes(x: Array) -> tuple[float, float]:
    """The smallest and the largest magnitude of the finite values but zero; 1 and 0 if none."""
    smallest, largest = np.inf, 0.0
    for block in _blocks(x):
        size = np.abs(block)
        usual = (size > 0) & (size < np.inf)
        smallest = min(smallest, float(np.where(usual, size, np.inf).min()))
        largest = max(largest, float(np.where(usual, size, 0).max()))
    return (smallest, largest) if largest else (1.0, 0.0)


def carrier_of_sums(fmt: Format, method: str, saturate: bool, known: Factors) -> Carrier | None:
    """Where to compute so that rounding the results to ``fmt`` is one rounding; None if nowhere."""
    carrier = _carrier_of_sums(fmt, method, known)
    return None if carrier is not None and fmt == carrier.fmt and saturate else carrier


def _carrier_of_sums(fmt: Format, method: str, known: Factors) -> Carrier | None:
    exact32 = known.short and known.smallest >= 2.0 ** (-149 + 22) and known.largest < 2.0**127
    if method == "fma":
        one_float64 = fmt.emax - fmt.emin + fmt.precision + 2 <= 53
        if fmt == FP32 and exact32:
            return FLOAT32
        if fmt == FP64 and known.float32:
            return FLOAT64
        return FLOAT64 if known.short and one_float64 and has_magic(fmt, FLOAT64) else None
    if fmt == FP32 and known.float32:
        return FLOAT32
    if fmt == FP64:
        return FLOAT64
    if exact32 and fmt.precision <= 11 and has_magic(fmt, FLOAT32) and fmt.emin >= FP32.emin:
        return FLOAT32
    if known.float32 and fmt.precision <= 25 and has_magic(fmt, FLOAT64) and fmt.emin > -900:
        return FLOAT64
    return None


class Native:
    """Arithmetic in fp32 or fp64, which is the carrier's own; results of one shape."""

    def __init__(self, carrier: Carrier, shape: tuple[int, ...]) -> None:
        self.carrier, self.shape = carrier, shape
        self.product = np.empty(shape, carrier.floats)

    def zeros(self) -> Array:
        """A new array for results: +0."""
        return np.zeros(self.shape, self.carrier.floats)

    def multiply(self, x: Array, y: Array, out: Array) -> Array:
        """x y."""
        return np.multiply(x, y, out=out)

    def add(self, x: Array, y: Array, out: Array) -> Array:
        """x + y."""
        return np.add(x, y, out=out)

    def subtract(self, x: Array, y: Array, out: Array) -> Array:
        """x - y."""
        return np.subtract(x, y, out=out)

    def fma(self, x: Array, y: Array, z: Array, out: Array) -> Array:
        """x y + z."""
        return np.add(np.multiply(x, y, out=self.product), z, out=out)


class Nearest(Native):
    """Arithmetic rounded to a format; see the module's text.

    known: of the factors. length: how many products a sum has at most.
    """

    def __init__(
        self,
        fmt: Format,
        saturate: bool,
        carrier: Carrier,
        shape: tuple[int, ...],
        known: Factors,
        length: int,
    ) -> None:
        super().__init__(carrier, shape)
        self.magic = magic_constants(fmt, saturate, carrier)
        self.work = np.empty(shape, carrier.words)
        # Looking for what cannot be there takes time.
        self.small_products = known.smallest < fmt.smallest_normal
        self.large_products = known.largest >= 2.0**fmt.emax or not known.finite
        # A rounding makes a sum larger by a factor of 1 + eps/2 at most; Kahan's order has three.
        growth = 1.5 * (length + 1) * fmt.eps
        product = max(known.largest, fmt.smallest_subnormal)  # tiny ones may be rounded up to that
        largest = length * product * np.exp(growth) if growth < 10 else np.inf
        self.large_sums = largest > fmt.max / 2 or not known.finite

    def multiply(self, x: Array, y: Array, out: Array) -> Array:
        """x y."""
        return self._round(super().multiply(x, y, out), self.small_products, self.large_products)

    def add(self, x: Array, y: Array, out: Array) -> Array:
        """x + y."""
        return self._round(super().add(x, y, out), False, self.large_sums)

    def subtract(self, x: Array, y: Array, out: Array) -> Array:
        """x - y."""
        return self._round(super().subtract(x, y, out), False, self.large_sums)

    def fma(self, x: Array, y: Array, z: Array, out: Array) -> Array:
        """x y + z."""
        return self._round(super().fma(x, y, z, out), True, self.large_sums)

    def _round(self, x: Array, small: bool, large: bool) -> Array:
        """Round in place; ``small``: there may be inexact subnormal numbers, ``large``: overflow.

        Signs of zeros are lost; a sum that started from +0 does not care.
        """
        magic, work = self.magic, self.work
        constant = work.view(self.carrier.floats)
        np.bitwise_and(x.view(self.carrier.words), self.carrier.exponent_mask, out=work)
        highest = work.max() if large else magic.lowest
        if small or highest > magic.highest:
            work.clip(magic.lowest, magic.highest, out=work)
        np.multiply(constant, magic.multiplier, out=constant)
        np.add(x, constant, out=x)
        np.subtract(x, constant, out=x)
        if highest >= magic.top:
            overflow(x, constant, magic)
        return x
