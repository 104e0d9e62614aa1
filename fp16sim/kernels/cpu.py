"""Rounding NumPy arrays, as fast as plain NumPy can; bit for bit what ``reference`` does.

Three ways, all without branches on single values; more of them cost speed, fewer exactness:

*by bits*, for any mode: a format of p bits in a carrier of t has a fraction field that is shorter
by t-p bits. Add to the bit pattern what the mode adds (half a unit, a whole one less a bit, a
random number), clear the bits below, and the carry has run into the exponent by itself. In the
format's subnormal range, where more bits go, values are picked out and *dissected*: significand
as an integer, shift, what is cut off decides about what is kept.

*magic*, for nearest-even: let 2^e <= |x| < 2^(e+1). Adding C = 1.5·2^(e+t-p) moves x to where the
carrier's own spacing is the format's, so the adder of the processor rounds it, ties to even;
subtracting C brings it back, exactly. C comes from x's exponent bits, never less than emin's, so
subnormals need no special case. It needs t-p >= 2 and C in the carrier's range.

*same exponents*, for nearest-even in a format with the carrier's exponents (bfloat16 in float32):
by bits, and nothing else to look after but NaN.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fp16sim.backend import Array, Draw
from fp16sim.formats import Format
from fp16sim.kernels.layout import (
    FLOAT32,
    FLOAT64,
    Carrier,
    Plan,
    carrier_for,
    has_magic,
    has_same_exponents,
    plan,
)

# Values a block. Measured: a block that fits the L3 cache is better than one that fits the L2
# cache, since the calls cost more than the cache misses.
BLOCK = 2**18


FIRST_EXPONENT_BIT = {c.words: c.words(1) << c.words(c.fraction_bits) for c in (FLOAT32, FLOAT64)}


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
    fast = mode == "ties_to_even" and fmt.signed_zero and subnormals
    magic = magic_constants(fmt, saturate, carrier) if fast and has_magic(fmt, carrier) else None
    same_exponents = fast and has_same_exponents(fmt, carrier)
    with np.errstate(all="ignore"):
        for start in range(0, x.size, BLOCK):
            values, result = x[start : start + BLOCK], out[start : start + BLOCK]
            work, signs = scratch if values.size == BLOCK else scratch[:, : values.size]
            if magic is not None:
                _magic(values, result, work, signs, magic, carrier)
            elif same_exponents:
                _same_exponents(values, result, work, words, saturate, carrier)
            else:
                drawn = None if draw is None else draw(values.size)
                _by_bits(values, result, work, signs, words, mode, carrier, drawn)


class Magic(NamedTuple):
    """The constants of the adder's way."""

    lowest: Any  # exponent bits of emin: below, the spacing is constant
    top: Any  # exponent bits of emax: there and above results may be beyond the largest number
    highest: Any  # exponent bits of emax + 1: above, everything overflows anyway
    half_smallest: Any  # exponent bits of the largest power that rounds to zero
    multiplier: Any  # 1.5·2^(t-p), turns 2^e into the magic constant
    # What becomes of results beyond the largest number: clipped to it; or infinite, in two
    # products; or NaN, since this times the largest is finite and times the next is not.
    largest: Any
    up: Any
    down: Any
    limit: Any


@lru_cache
def magic_constants(fmt: Format, saturate: bool, carrier: Carrier) -> Magic:
    """For formats that ``has_magic`` allows."""
    floats = carrier.floats
    to_the_top = carrier.fmt.emax - fmt.emax
    clips = saturate or not fmt.nans
    return Magic(
        lowest=carrier.word(2.0**fmt.emin),
        top=carrier.word(2.0**fmt.emax),
        highest=carrier.word(2.0 ** (fmt.emax + 1)),
        half_smallest=carrier.word(fmt.smallest_subnormal / 2),
        multiplier=floats(1.5 * 2.0 ** (carrier.fmt.precision - fmt.precision)),
        largest=floats(fmt.max) if clips else None,
        up=floats(2.0**to_the_top) if fmt.infinities else None,
        down=floats(2.0**-to_the_top),
        limit=floats(carrier.fmt.max / fmt.max * (1 - carrier.fmt.eps)),
    )


def _magic(
    values: Array, result: Array, work: Array, signs: Array, magic: Magic, carrier: Carrier
) -> None:
    words, constant = values.view(carrier.words), work.view(carrier.floats)
    np.bitwise_and(words, carrier.exponent_mask, out=work)
    smallest, highest = work.min(), work.max()
    if smallest < magic.lowest or highest > magic.highest:
        work.clip(magic.lowest, magic.highest, out=work)
    np.multiply(constant, magic.multiplier, out=constant)
    np.add(values, constant, out=result)
    np.subtract(result, constant, out=result)
    if highest >= magic.top:
        overflow(result, constant, magic)
    if smallest <= magic.half_smallest:
        # A negative number that became zero lost its sign in the subtraction.
        np.bitwise_and(words, carrier.sign_mask, out=signs)
        rounded = result.view(carrier.words)
        np.bitwise_or(rounded, signs, out=rounded)


def overflow(result: Array, scratch: Array, magic: Magic) -> None:
    """What is beyond the largest number becomes what the format has for it, in place."""
    if magic.largest is not None:
        result.clip(-magic.largest, magic.largest, out=result)
    elif magic.up is not None:
        np.multiply(result, magic.up, out=result)
        np.multiply(result, magic.down, out=result)
    else:  # infinity minus itself is NaN, everything else minus itself is zero
        np.multiply(result, magic.limit, out=scratch)
        np.subtract(scratch, scratch, out=scratch)
        np.add(result, scratch, out=result)


def _same_exponents(
    values: Array, result: Array, work: Array, plan: Plan, saturate: bool, carrier: Carrier
) -> None:
    words, rounded = values.view(carrier.words), result.view(carrier.words)
    one = carrier.words(1)
    unit = one << plan.dropped
    largest = values.max()
    nan = (
        np.flatnonzero(values != values) if largest != largest else None
    )  # the carry destroys them
    np.right_shift(words, plan.dropped, out=work)
    np.bitwise_and(work, one, out=work)
    np.add(work, (unit >> one) - one, out=work)
    np.add(words, work, out=rounded)
    np.bitwise_and(rounded, ~(unit - one), out=rounded)
    if saturate:
        largest = plan.largest.view(carrier.floats)
        result.clip(-largest, largest, out=result)
    if nan is not None:
        rounded[nan] = words[nan] | one << carrier.words(carrier.fraction_bits - 1)  # made quiet


def _by_bits(
    values: Array, result: Array, magnitude: Array, signs: Array,
    plan: Plan, mode: str, carrier: Carrier, drawn: Array | None,
) -> None:  # fmt: skip
    one = carrier.words(1)
    unit = one << plan.dropped
    words, rounded = values.view(carrier.words), result.view(carrier.words)
    np.bitwise_and(words, carrier.sign_mask, out=signs)
    np.bitwise_xor(words, signs, out=magnitude)
    _add_for_mode(magnitude, signs, rounded, unit, plan.dropped, mode, drawn)
    np.bitwise_and(rounded, ~(unit - one), out=rounded)
    smallest_normal = plan.emin_field << carrier.words(carrier.fraction_bits)
    if (plan.emin_field > 1 or plan.gap_below) and magnitude.min() < smallest_normal:
        small = np.flatnonzero(magnitude < smallest_normal)
        drawn = None if drawn is None else drawn[small]
        rounded[small] = _dissected(magnitude[small], signs[small], plan, mode, carrier, drawn)
    if rounded.max() > plan.largest:  # infinities and NaNs are among them
        over = np.flatnonzero(rounded > plan.largest)
        before, sign = magnitude[over], signs[over]
        beyond = np.where(sign == 0, plan.beyond_positive, plan.beyond_negative)
        beyond = np.where(before == carrier.exponent_mask, plan.infinite, beyond)
        nan = before | one << carrier.words(carrier.fraction_bits - 1)  # made quiet
        rounded[over] = np.where(before > carrier.exponent_mask, nan, beyond)
    if plan.flush_below:
        np.copyto(rounded, carrier.words(0), where=rounded < plan.flush_below)
    if plan.zero_sign == 0:
        np.copyto(signs, plan.zero_sign, where=rounded == 0)
    np.bitwise_or(rounded, signs, out=rounded)


def _add_for_mode(
    magnitude: Array, signs: Array, out: Array, unit: Any, dropped: Any, mode: str,
    drawn: Array | None,
) -> None:  # fmt: skip
    """What makes the carry go into ``unit`` where the mode goes up, added to the magnitudes."""
    one = type(unit)(1)
    if unit == FIRST_EXPONENT_BIT[type(unit)]:
        # Precision 1: what is kept is the implicit one, always odd, and the unit's bit is not it.
        mode = {"ties_to_even": "ties_to_away", "to_odd": "toward_zero"}.get(mode, mode)
    if unit == one or mode == "toward_zero":
        np.copyto(out, magnitude)
        return
    match mode:
        case "ties_to_even":  # half less a bit, and the bit if what is kept is odd
            np.right_shift(magnitude, dropped, out=out)
            np.bitwise_and(out, one, out=out)
            np.add(out, (unit >> one) - one, out=out)
        case "ties_to_away":
            np.add(magnitude, unit >> one, out=out)
            return
        case "toward_negative" | "toward_positive":
            towards = np.not_equal if mode == "toward_negative" else np.equal
            np.multiply(towards(signs, 0), unit - one, out=out)
        case "to_odd":  # no carry: if anything is cut off, the bit itself
            np.bitwise_and(magnitude, unit - one, out=out)
            np.add(out, unit - one, out=out)
            np.bitwise_or(out, magnitude, out=out)
            np.bitwise_or(magnitude, out & unit, out=out)
            return
        case _:  # stochastic: as many upper bits of the random number as are cut off
            assert drawn is not None
            np.copyto(out, drawn)
            if dropped <= 32:
                np.right_shift(out, type(unit)(32) - dropped, out=out)
            else:
                np.left_shift(out, dropped - type(unit)(32), out=out)
    np.add(out, magnitude, out=out)


def _dissected(
    magnitude: Array, signs: Array, plan: Plan, mode: str, carrier: Carrier, drawn: Array | None
) -> Array:
    """The rounded magnitudes of values below the smallest normal number, overflow aside."""
    one, point = carrier.words(1), carrier.words(carrier.fraction_bits)
    # magnitude = base + significand; base holds the exponent, less the implicit one's share.
    field = np.maximum(magnitude >> point, one)  # the carrier's own subnormals have its emin
    base = (field - one) << point
    significand = magnitude - base
    shift = plan.dropped + plan.gap + (plan.emin_field - field)
    cut = np.minimum(shift, point + carrier.words(2))  # more cuts off everything as well
    kept = significand >> cut
    rest = significand - (kept << cut)
    match mode:
        case "ties_to_even":
            up = rest + rest + (kept & one) > one << cut
        case "ties_to_away":
            up = rest + rest >= one << cut
        case "toward_zero":
            up = np.zeros(rest.shape, bool)
        case "toward_negative":
            up = (rest != 0) & (signs != 0)
        case "toward_positive":
            up = (rest != 0) & (signs == 0)
        case "to_odd":
            up = (rest != 0) & (kept & one == 0)
        case _:
            assert drawn is not None
            up = _share(rest, shift) + drawn >= np.uint64(2**32)
    rounded: Array = np.where(kept == 0, plan.smallest * up, ((kept + up) << cut) + base)
    return rounded


def _share(rest: Array, shift: Array) -> Array:
    """floor(2^32 rest / 2^shift) as uint64, where 0 <= rest < 2^shift and rest < 2^54."""
    rest, shift = rest.astype(np.uint64), shift.astype(np.uint64)
    bits = np.uint64(32)
    left = np.where(shift < bits, bits - shift, 0).astype(np.uint64)
    right = np.where(shift > bits, np.minimum(shift - bits, np.uint64(63)), 0).astype(np.uint64)
    return rest << left >> right
