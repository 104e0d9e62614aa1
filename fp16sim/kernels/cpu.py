"""Rounding to nearest, ties to even, on NumPy arrays: as fast as plain NumPy can.

Two kernels, both exact and both free of branches on the data:

*magic*: let 2^e <= |x| < 2^(e+1), a carrier of t bits, a format of p. Adding C = 1.5·2^(e+t-p)
moves x to where the carrier's own spacing is the format's, so the adder of the processor rounds
it, ties to even; subtracting C brings it back, exactly. C comes from x's exponent bits, never less
than emin's, so subnormals need no special case. It needs t-p >= 2 and C in the carrier's range.

*integer*: if the format has the carrier's exponent range (bfloat16 in float32), rounding is an
addition to the bit pattern: half a unit, less one if the last kept bit is even; the carry runs
into the exponent by itself, up to infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fp16sim.backend import Array
from fp16sim.formats import FP32, FP64, Format
from fp16sim.kernels import reference

# Values a block: input, output and scratch of a block together stay in a 1 MiB L2 cache.
BLOCK = 32768


@dataclass(frozen=True)
class Carrier:
    """The bit layout of float32 or float64."""

    fmt: Format
    floats: Any
    words: Any

    @property
    def fraction_bits(self) -> int:
        """Bits after the implicit one."""
        return self.fmt.precision - 1

    @property
    def sign_mask(self) -> Any:
        """The sign bit set, all else clear."""
        return self.words(1 << (self.fmt.bits - 1))

    @property
    def exponent_mask(self) -> Any:
        """The exponent field set, all else clear."""
        return self.words(((1 << self.fmt.exponent_bits) - 1) << self.fraction_bits)

    def power_bits(self, exponent: int) -> Any:
        """The bit pattern of 2^exponent."""
        return self.words((exponent + self.fmt.emax) << self.fraction_bits)


FLOAT32 = Carrier(FP32, np.float32, np.uint32)
FLOAT64 = Carrier(FP64, np.float64, np.uint64)


def carrier_for(dtype: np.dtype[Any]) -> Carrier:
    """The layout of a float32 or float64 array."""
    return FLOAT32 if dtype == np.float32 else FLOAT64


def fits_magic(fmt: Format, carrier: Carrier) -> bool:
    """Whether the magic constant exists for every exponent that the kernel may meet."""
    shift = carrier.fmt.precision - fmt.precision
    return shift >= 2 and fmt.emax + 1 + shift < carrier.fmt.emax and fmt.emin >= carrier.fmt.emin


def fits_integer(fmt: Format, carrier: Carrier) -> bool:
    """Whether the format has the carrier's exponents, infinities and NaNs, and fewer bits."""
    return (
        fmt.precision < carrier.fmt.precision
        and (fmt.emin, fmt.emax) == (carrier.fmt.emin, carrier.fmt.emax)
        and fmt.infinities
    )


@dataclass(frozen=True)
class _Magic:
    lowest: Any  # exponent bits of emin: below, the spacing is constant
    highest: Any  # exponent bits of emax + 1: above, everything overflows anyway
    multiplier: Any  # 1.5·2^(t-p), turns 2^e into the magic constant


@lru_cache
def _magic(fmt: Format, carrier: Carrier) -> _Magic:
    floats = carrier.floats
    return _Magic(
        lowest=carrier.power_bits(fmt.emin),
        highest=carrier.power_bits(fmt.emax + 1),
        multiplier=floats(1.5 * 2.0 ** (carrier.fmt.precision - fmt.precision)),
    )


def round_ties_to_even(
    x: Array, out: Array, fmt: Format, saturate: bool = False, subnormals: bool = True
) -> None:
    """Round every element of ``x`` into ``out``; both 1-d, contiguous, float32 or float64 alike.

    ``x`` and ``out`` may be the same array. The dtype must hold all numbers of the format, or the
    format all of the dtype's.
    """
    carrier = carrier_for(x.dtype)
    if fits_integer(fmt, carrier):
        block_kernel = _integer_block
    elif fits_magic(fmt, carrier):
        block_kernel = _magic_block
    elif fmt.contains(carrier.fmt):
        block_kernel = _copy_block
    elif carrier is FLOAT32 and fits_magic(fmt, FLOAT64):
        wide = x.astype(np.float64)
        round_ties_to_even(wide, wide, fmt, saturate, subnormals)
        out[...] = wide  # exact: the caller only asks for formats that float32 contains
        return
    else:
        block_kernel = _reference_block
    scratch = np.empty((2, min(BLOCK, x.size)), carrier.words)
    with np.errstate(all="ignore"):
        for start in range(0, x.size, BLOCK):
            values = x[start : start + BLOCK]
            result = out[start : start + BLOCK]
            signs, work = scratch[:, : values.size]
            np.bitwise_and(values.view(carrier.words), carrier.sign_mask, out=signs)
            block_kernel(values, result, work, fmt, carrier)
            _finish(result, work, fmt, carrier, saturate, subnormals)
            words = result.view(carrier.words)
            np.bitwise_or(words, signs, out=words)


def _magic_block(values: Array, result: Array, work: Array, fmt: Format, carrier: Carrier) -> None:
    magic = _magic(fmt, carrier)
    np.bitwise_and(values.view(carrier.words), carrier.exponent_mask, out=work)
    np.clip(work, magic.lowest, magic.highest, out=work)
    constant = work.view(carrier.floats)
    np.multiply(constant, magic.multiplier, out=constant)
    np.add(values, constant, out=result)
    np.subtract(result, constant, out=result)


def _integer_block(
    values: Array, result: Array, work: Array, fmt: Format, carrier: Carrier
) -> None:
    dropped = carrier.fmt.precision - fmt.precision
    words, rounded = values.view(carrier.words), result.view(carrier.words)
    nan = np.isnan(values) if np.isnan(np.max(values)) else None  # the carry would destroy NaNs
    np.right_shift(words, carrier.words(dropped), out=work)
    np.bitwise_and(work, carrier.words(1), out=work)
    np.add(work, carrier.words((1 << (dropped - 1)) - 1), out=work)
    np.add(words, work, out=rounded)
    np.bitwise_and(rounded, ~carrier.words((1 << dropped) - 1), out=rounded)
    if nan is not None:
        np.copyto(result, carrier.floats(np.nan), where=nan)


def _copy_block(values: Array, result: Array, work: Array, fmt: Format, carrier: Carrier) -> None:
    np.copyto(result, values)


def _reference_block(
    values: Array, result: Array, work: Array, fmt: Format, carrier: Carrier
) -> None:
    """For formats with nearly all of float64's bits or range: slow, and exact like the others."""
    result[...] = [reference.round_ties_to_even(value, fmt) for value in values.tolist()]


def _finish(
    result: Array, work: Array, fmt: Format, carrier: Carrier, saturate: bool, subnormals: bool
) -> None:
    """Overflow and flushing, on rounded values; in most blocks there is neither."""
    largest = carrier.floats(fmt.max)  # infinite if the format is wider than its carrier
    magnitude = work.view(carrier.floats)
    np.abs(result, out=magnitude)
    if not np.max(magnitude) <= largest:  # also true if there is a NaN
        if saturate or not fmt.nans:
            beyond = largest
        else:
            beyond = carrier.floats(np.inf if fmt.infinities else np.nan)
        over = magnitude > largest
        np.copyto(result, np.copysign(beyond, result), where=over)
    if not subnormals:
        np.copyto(result, carrier.floats(0), where=magnitude < fmt.smallest_normal)
