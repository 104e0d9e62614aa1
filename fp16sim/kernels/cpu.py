"""Rounding NumPy arrays, as fast as plain NumPy can; bit for bit what ``reference`` does.

*General*: the significand as an integer, ``shift`` bits of which the format does not have; what is
cut off decides, by the mode, whether what is kept goes up by one. All formats, all modes, in some
thirty passes over a block. Nearest-even, which networks use, has two ways with fewer:

*magic*: let 2^e <= |x| < 2^(e+1), a carrier of t bits, a format of p. Adding C = 1.5·2^(e+t-p)
moves x to where the carrier's own spacing is the format's, so the adder of the processor rounds
it, ties to even; subtracting C brings it back, exactly. C comes from x's exponent bits, never less
than emin's, so subnormals need no special case. It needs t-p >= 2 and C in the carrier's range.

*same exponents*: if the format has the carrier's exponent range (bfloat16 in float32), rounding is
an addition to the bit pattern: half a unit, less one if the last kept bit is even; the carry runs
into the exponent by itself, up to infinity.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fp16sim.backend import Array, Draw
from fp16sim.formats import Format
from fp16sim.kernels.layout import (
    Carrier,
    Plan,
    carrier_for,
    has_magic,
    has_same_exponents,
    plan,
)

# Values a block: input, output and scratch of a block together stay in a 1 MiB L2 cache.
BLOCK = 32768


def round_array(
    x: Array,
    out: Array,
    fmt: Format,
    mode: str = "ties_to_even",
    saturate: bool = False,
    subnormals: bool = True,
    draw: Draw | None = None,
) -> None:
    """Round every element of ``x`` into ``out``: two 1-d contiguous float32 or float64 arrays.

    The dtype must hold all numbers of the format, and its normal numbers as normal ones. draw: for
    the mode "stochastic", called once for every block of ``BLOCK`` values.
    """
    carrier = carrier_for(x.dtype)
    words = plan(fmt, mode, saturate, subnormals, carrier)
    scratch = np.empty((2, min(BLOCK, x.size)), carrier.words)
    nearest_even = mode == "ties_to_even" and fmt.signed_zero
    with np.errstate(all="ignore"):
        for start in range(0, x.size, BLOCK):
            block = slice(start, start + BLOCK)
            values, result = x[block], out[block]
            if nearest_even and has_magic(fmt, carrier):
                _magic(values, result, scratch[:, : values.size], fmt, saturate, carrier)
            elif nearest_even and has_same_exponents(fmt, carrier):
                _same_exponents(values, result, scratch[0, : values.size], words, saturate, carrier)
            else:
                drawn = None if draw is None else draw(values.size)
                _general(values, result, words, mode, carrier, drawn)
                continue
            if not subnormals:
                magnitude = scratch[1, : values.size]
                rounded = result.view(carrier.words)
                np.bitwise_and(rounded, ~carrier.sign_mask, out=magnitude)
                np.copyto(rounded, rounded & carrier.sign_mask, where=magnitude < words.flush_below)


@lru_cache
def _magic_constants(fmt: Format, carrier: Carrier) -> tuple[Any, ...]:
    floats = carrier.floats
    to_the_top = carrier.fmt.emax - fmt.emax
    return (
        carrier.word(2.0**fmt.emin),  # below, the spacing is constant
        carrier.word(2.0 ** (fmt.emax + 1)),  # above, everything overflows anyway
        floats(1.5 * 2.0 ** (carrier.fmt.precision - fmt.precision)),  # 2^e to the magic constant
        floats(2.0**to_the_top),  # moves what is beyond the largest number to infinity
        floats(2.0**-to_the_top),
        floats(carrier.fmt.max / fmt.max * (1 - carrier.fmt.eps)),  # the same for any largest
        floats(fmt.max),
    )


def _magic(
    values: Array, result: Array, scratch: Array, fmt: Format, saturate: bool, carrier: Carrier
) -> None:
    lowest, highest, multiplier, up, down, limit, largest = _magic_constants(fmt, carrier)
    signs, work = scratch
    constant = work.view(carrier.floats)
    words = values.view(carrier.words)
    np.bitwise_and(words, carrier.exponent_mask, out=work)
    np.clip(work, lowest, highest, out=work)
    np.multiply(constant, multiplier, out=constant)
    np.add(values, constant, out=result)
    np.subtract(result, constant, out=result)
    if saturate or not fmt.nans:
        np.clip(result, -largest, largest, out=result)
    elif fmt.infinities:
        np.multiply(result, up, out=result)
        np.multiply(result, down, out=result)
    else:  # infinity minus itself is NaN, everything else minus itself is zero
        np.multiply(result, limit, out=constant)
        np.subtract(constant, constant, out=constant)
        np.add(result, constant, out=result)
    # A negative number that became zero lost its sign in the subtraction.
    np.bitwise_and(words, carrier.sign_mask, out=signs)
    rounded = result.view(carrier.words)
    np.bitwise_or(rounded, signs, out=rounded)


def _same_exponents(
    values: Array, result: Array, work: Array, plan: Plan, saturate: bool, carrier: Carrier
) -> None:
    words, rounded = values.view(carrier.words), result.view(carrier.words)
    one = carrier.words(1)
    nan = np.isnan(values) if np.isnan(np.max(values)) else None  # the carry would destroy NaNs
    np.right_shift(words, plan.dropped, out=work)
    np.bitwise_and(work, one, out=work)
    np.add(work, (one << (plan.dropped - one)) - one, out=work)
    np.add(words, work, out=rounded)
    np.bitwise_and(rounded, ~((one << plan.dropped) - one), out=rounded)
    if saturate:
        largest = plan.largest.view(carrier.floats)
        np.clip(result, -largest, largest, out=result)
    if nan is not None:
        np.copyto(result, carrier.floats(np.nan), where=nan)


def _general(
    values: Array, result: Array, plan: Plan, mode: str, carrier: Carrier, drawn: Array | None
) -> None:
    one, point = carrier.words(1), carrier.words(carrier.fraction_bits)
    words = values.view(carrier.words)
    sign = words & carrier.sign_mask
    magnitude = words ^ sign
    # magnitude = base + significand; base holds the exponent, less the implicit one's share.
    field = np.maximum(magnitude >> point, one)  # the carrier's own subnormals have its emin
    base = (field - one) << point
    significand = magnitude - base
    shift = plan.dropped + (np.maximum(field, plan.emin_field) - field)
    if plan.gap_below:
        shift += plan.gap * (magnitude < plan.gap_below)
    cut = np.minimum(shift, point + carrier.words(2))  # more cuts off everything as well
    kept = significand >> cut
    rest = significand - (kept << cut)
    match mode:
        case "ties_to_even":
            up = rest + rest + (kept & one) > one << cut
        case "ties_to_away":
            up = rest + rest >= one << cut
        case "toward_zero":
            up = np.zeros(values.shape, bool)
        case "toward_negative":
            up = (rest != 0) & (sign != 0)
        case "toward_positive":
            up = (rest != 0) & (sign == 0)
        case "to_odd":
            up = (rest != 0) & (kept & one == 0)
        case _:
            assert drawn is not None
            up = _share(rest, shift) + drawn >= np.uint64(2**32)
    rounded = result.view(carrier.words)
    np.add((kept + up) << cut, base, out=rounded)
    small = kept == 0
    if small.any():
        np.copyto(rounded, plan.smallest * up, where=small)
    beyond = np.where(sign == 0, plan.beyond_positive, plan.beyond_negative)
    np.copyto(rounded, beyond, where=rounded > plan.largest)
    if plan.flush_below:
        np.copyto(rounded, carrier.words(0), where=rounded < plan.flush_below)
    if plan.zero_sign == 0:
        sign[rounded == 0] = 0
    special = magnitude >= carrier.exponent_mask
    if special.any():
        nan = magnitude[special] | (one << (point - one))
        infinite = magnitude[special] == carrier.exponent_mask
        rounded[special] = np.where(infinite, plan.infinite, nan)
    np.bitwise_or(rounded, sign, out=rounded)


def _share(rest: Array, shift: Array) -> Array:
    """floor(2^32 rest / 2^shift) as uint64, where 0 <= rest < 2^shift and rest < 2^54."""
    rest, shift = rest.astype(np.uint64), shift.astype(np.uint64)
    bits = np.uint64(32)
    left = np.where(shift < bits, bits - shift, 0).astype(np.uint64)
    right = np.where(shift > bits, np.minimum(shift - bits, np.uint64(63)), 0).astype(np.uint64)
    return rest << left >> right
