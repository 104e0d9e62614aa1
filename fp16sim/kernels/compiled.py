"""Rounding NumPy arrays in one fused pass, compiled by Numba: the ways of ``cpu``, fused.

What has no faster way is *dissected*: see there.

Compiled code is kept on disk by Numba's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from fp16sim.backend import Array, Draw
from fp16sim.formats import Format
from fp16sim.kernels.cpu import BLOCK
from fp16sim.kernels.layout import (
    Carrier,
    carrier_for,
    has_magic,
    has_same_exponents,
    plan,
)
from fp16sim.kernels.words import (
    add,
    and_,
    compiled,
    larger,
    less,
    or_,
    shl,
    shr,
    smaller,
    sub,
    through_adder,
    where,
)


def round_array(
    x: Array,
    out: Array,
    fmt: Format,
    mode: str = "ties_to_even",
    saturate: bool = False,
    subnormals: bool = True,
    draw: Draw | None = None,
) -> None:
    """What ``cpu.round_array`` does, with the same bits."""
    carrier = carrier_for(x.dtype)
    constants = plan(fmt, mode, saturate, subnormals, carrier)
    words, rounded = x.view(carrier.words), out.view(carrier.words)
    if draw is not None:
        kernel = _kernel("stochastic", carrier)
        for start in range(0, x.size, BLOCK):
            block = slice(start, start + BLOCK)
            kernel(words[block], rounded[block], draw(x[block].size), constants)
        return
    way = mode
    if mode == "ties_to_even" and subnormals and fmt.signed_zero:
        if has_magic(fmt, carrier):
            way = "magic"
        elif has_same_exponents(fmt, carrier):
            way = "same exponents"
    _kernel(way, carrier)(words, rounded, _NO_DRAWS, constants)


_NO_DRAWS = np.empty(0, np.uint32)


@cache
def _kernel(way: str, carrier: Carrier) -> Callable[[Array, Array, Array, Any], None]:
    """A function of words, results, draws and a plan, compiled at its first call."""
    make = {"magic": _magic, "same exponents": _same_exponents}.get(way)
    kernel: Callable[[Array, Array, Array, Any], None]
    kernel = _dissecting(way, carrier) if make is None else make(carrier)
    return kernel


def _magic(carrier: Carrier) -> Any:
    sign_mask, infinity = carrier.sign_mask, carrier.exponent_mask
    magnitude_mask = ~sign_mask
    one, point = carrier.words(1), carrier.words(carrier.fraction_bits)
    half = carrier.words(1 << carrier.fraction_bits - 1)

    def kernel(x: Array, out: Array, draws: Array, p: Any) -> None:
        lowest = shl(p.emin_field, point)
        highest = add(and_(p.largest, infinity), shl(one, point))
        # Makes 1.5·2^(e+dropped) of 2^e: added to the exponent field, and the upper fraction bit.
        to_constant = or_(shl(p.dropped, point), half)
        for i in range(x.size):
            word = x[i]
            power = smaller(larger(and_(word, infinity), lowest), highest)
            result = and_(through_adder(word, add(power, to_constant)), magnitude_mask)
            over = where(less(infinity, result), result, p.infinite)
            out[i] = or_(where(less(p.largest, result), over, result), and_(word, sign_mask))

    return compiled(kernel)


def _same_exponents(carrier: Carrier) -> Any:
    sign_mask, infinity = carrier.sign_mask, carrier.exponent_mask
    magnitude_mask = ~sign_mask
    one, all_bits = carrier.words(1), ~carrier.words(0)
    quiet = carrier.words(1 << carrier.fraction_bits - 1)

    def kernel(x: Array, out: Array, draws: Array, p: Any) -> None:
        below_half = sub(shl(one, sub(p.dropped, one)), one)
        kept_bits = shl(all_bits, p.dropped)
        for i in range(x.size):
            sign = and_(x[i], sign_mask)
            magnitude = and_(x[i], magnitude_mask)
            odd = and_(shr(magnitude, p.dropped), one)
            result = and_(add(add(magnitude, below_half), odd), kept_bits)
            result = where(less(p.largest, result), p.infinite, result)
            result = where(less(infinity, magnitude), or_(magnitude, quiet), result)
            out[i] = or_(result, sign)

    return compiled(kernel)


def _dissecting(mode: str, carrier: Carrier) -> Any:
    sign_mask, infinity = carrier.sign_mask, carrier.exponent_mask
    magnitude_mask = ~sign_mask
    point = carrier.words(carrier.fraction_bits)
    zero, one, most = carrier.words(0), carrier.words(1), carrier.words(carrier.fraction_bits + 2)
    quiet = carrier.words(1 << carrier.fraction_bits - 1)

    def kernel(x: Array, out: Array, draws: Array, p: Any) -> None:
        for i in range(x.size):
            sign = and_(x[i], sign_mask)
            magnitude = and_(x[i], magnitude_mask)
            field = larger(shr(magnitude, point), one)
            base = shl(sub(field, one), point)
            significand = sub(magnitude, base)
            shift = add(p.dropped, sub(larger(field, p.emin_field), field))
            shift = add(shift, where(less(magnitude, p.gap_below), p.gap, zero))
            cut = smaller(shift, most)
            kept = shr(significand, cut)
            rest = sub(significand, shl(kept, cut))
            if mode == "ties_to_even":
                up = less(shl(one, cut), add(add(rest, rest), and_(kept, one)))
            elif mode == "ties_to_away":
                up = not less(add(rest, rest), shl(one, cut))
            elif mode == "toward_zero":
                up = False
            elif mode == "toward_negative":
                up = less(zero, rest) & less(zero, sign)
            elif mode == "toward_positive":
                up = less(zero, rest) & (sign == zero)
            elif mode == "to_odd":
                up = less(zero, rest) & (and_(kept, one) == zero)
            else:
                bits = np.uint64(32)
                wide = np.uint64(shift)
                left = bits - wide if wide < bits else np.uint64(0)
                right = min(wide - bits, np.uint64(63)) if wide > bits else np.uint64(0)
                share = np.uint64(rest) << left >> right
                up = share + np.uint64(draws[i]) >= np.uint64(2**32)
            step = where(up, one, zero)
            result = add(shl(add(kept, step), cut), base)
            result = where(less(zero, kept), result, where(up, p.smallest, zero))
            beyond = where(less(zero, sign), p.beyond_negative, p.beyond_positive)
            result = where(less(p.largest, result), beyond, result)
            result = where(less(result, p.flush_below), zero, result)
            nan = or_(magnitude, quiet)
            special = where(less(infinity, magnitude), nan, p.infinite)
            result = where(less(magnitude, infinity), result, special)
            out[i] = or_(result, where(less(zero, result), sign, and_(sign, p.zero_sign)))

    return compiled(kernel)
