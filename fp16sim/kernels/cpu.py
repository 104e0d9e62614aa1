"""Rounding NumPy arrays, as fast as plain NumPy can; bit for bit what ``reference`` does.

For nearest-even two kernels, both exact and both free of branches on the data:

*magic*: let 2^e <= |x| < 2^(e+1), a carrier of t bits, a format of p. Adding C = 1.5·2^(e+t-p)
moves x to where the carrier's own spacing is the format's, so the adder of the processor rounds
it, ties to even; subtracting C brings it back, exactly. C comes from x's exponent bits, never less
than emin's, so subnormals need no special case. It needs t-p >= 2 and C in the carrier's range.

*integer*: if the format has the carrier's exponent range (bfloat16 in float32), rounding is an
addition to the bit pattern: half a unit, less one if the last kept bit is even; the carry runs
into the exponent by itself, up to infinity.

The other modes start from the magic kernel's result on magnitudes and mend it: what it got wrong is
at most one spacing, and every difference that decides about it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
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


def round_array(
    x: Array,
    out: Array,
    fmt: Format,
    mode: str = "ties_to_even",
    saturate: bool = False,
    subnormals: bool = True,
    draws: Array | None = None,
) -> None:
    """Round every element of ``x`` into ``out``: two 1-d contiguous float32 or float64 arrays.

    The dtype must hold all numbers of the format, or the format all of the dtype's. draws: for
    the mode "stochastic" a uint32 array, the random numbers of the reference times 2^32.
    """
    carrier = carrier_for(x.dtype)
    nearest_even = mode == "ties_to_even"
    if fmt.contains(carrier.fmt):
        block_kernel = _copy_block
    elif nearest_even and fits_integer(fmt, carrier):
        block_kernel = _integer_block
    elif fits_magic(fmt, carrier):
        block_kernel = _magic_block if nearest_even else _other_modes_block
    elif carrier is FLOAT32 and fits_magic(fmt, FLOAT64):
        wide = np.empty(x.shape, np.float64)
        round_array(x.astype(np.float64), wide, fmt, mode, saturate, subnormals, draws)
        out[...] = wide  # exact: the caller only asks for formats that float32 contains
        return
    else:
        block_kernel = _reference_block
    scratch = np.empty((2, min(BLOCK, x.size)), carrier.words)
    with np.errstate(all="ignore"):
        for start in range(0, x.size, BLOCK):
            block = slice(start, start + BLOCK)
            values, result = x[block], out[block]
            signs, work = scratch[:, : values.size]
            np.bitwise_and(values.view(carrier.words), carrier.sign_mask, out=signs)
            drawn = None if draws is None else draws[block]
            block_kernel(values, result, signs, work, fmt, mode, carrier, drawn)
            _finish(values, result, work, fmt, mode, carrier, saturate, subnormals)
            words = result.view(carrier.words)
            np.bitwise_or(words, signs, out=words)


# Every block kernel takes the same arguments. ``signs`` holds the sign bits of ``values``, which
# are put into the result afterwards; ``work`` is scratch.


def _magic_block(
    values: Array, result: Array, signs: Array, work: Array,
    fmt: Format, mode: str, carrier: Carrier, draws: Array | None,
) -> None:  # fmt: skip
    magic = _magic(fmt, carrier)
    np.bitwise_and(values.view(carrier.words), carrier.exponent_mask, out=work)
    np.clip(work, magic.lowest, magic.highest, out=work)
    constant = work.view(carrier.floats)
    np.multiply(constant, magic.multiplier, out=constant)
    np.add(values, constant, out=result)
    np.subtract(result, constant, out=result)


def _other_modes_block(
    values: Array, result: Array, signs: Array, work: Array,
    fmt: Format, mode: str, carrier: Carrier, draws: Array | None,
) -> None:  # fmt: skip
    magic = _magic(fmt, carrier)
    np.bitwise_and(values.view(carrier.words), carrier.exponent_mask, out=work)
    np.clip(work, magic.lowest, magic.highest, out=work)
    power = work.view(carrier.floats)  # 2^e
    spacing = power * carrier.floats(2.0 ** (1 - fmt.precision))
    constant = power * magic.multiplier
    magnitude = np.abs(values)
    below = (magnitude + constant) - constant  # the nearest; where it is above, one step back
    below -= spacing * (below > magnitude)
    rest = magnitude - below  # exact: 0 <= rest < spacing, and a multiple of the carrier's spacing
    match mode:
        case "ties_to_away":
            up = rest >= carrier.floats(0.5) * spacing
        case "toward_zero":
            up = np.zeros(values.shape, bool)
        case "toward_negative":
            up = (rest > 0) & (signs != 0)
        case "toward_positive":
            up = (rest > 0) & (signs == 0)
        case "to_odd":  # below + constant is exact, and its last bit is that of below's significand
            last_bit = (below + constant).view(carrier.words) & carrier.words(1)
            up = (rest > 0) & (last_bit == 0)
        case _:  # stochastic; in float64 whatever the carrier, where 33 bits are exact
            assert draws is not None
            share = np.floor((rest / spacing).astype(np.float64) * 2.0**32)
            up = share + draws >= 2.0**32
    np.add(below, spacing * up, out=result)


def _integer_block(
    values: Array, result: Array, signs: Array, work: Array,
    fmt: Format, mode: str, carrier: Carrier, draws: Array | None,
) -> None:  # fmt: skip
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


def _copy_block(
    values: Array, result: Array, signs: Array, work: Array,
    fmt: Format, mode: str, carrier: Carrier, draws: Array | None,
) -> None:  # fmt: skip
    np.copyto(result, values)


def _reference_block(
    values: Array, result: Array, signs: Array, work: Array,
    fmt: Format, mode: str, carrier: Carrier, draws: Array | None,
) -> None:  # fmt: skip
    """For formats with nearly all of float64's bits or range: slow, and exact like the others."""
    fmt = replace(fmt, infinities=True, nans=True)  # what overflows is for _finish to say
    numbers = (
        [None] * values.size if draws is None else [Fraction(d, 2**32) for d in draws.tolist()]
    )
    result[...] = [
        reference.round_to(value, fmt, mode, draw=draw)
        for value, draw in zip(values.tolist(), numbers, strict=True)
    ]


def _finish(
    values: Array, result: Array, work: Array, fmt: Format, mode: str, carrier: Carrier,
    saturate: bool, subnormals: bool,
) -> None:  # fmt: skip
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
        negative = np.signbit(values)
        stops = np.where(
            negative, reference.STOPS_AT_MAX[mode](True), reference.STOPS_AT_MAX[mode](False)
        )
        stops &= np.isfinite(values)
        np.copyto(result, np.where(stops, largest, beyond), where=over)
    if not subnormals:
        np.copyto(result, carrier.floats(0), where=magnitude < fmt.smallest_normal)
