"""Rounding NumPy arrays in one fused pass, compiled by Numba: the ways of ``cpu``, fused.

What has no faster way is *dissected*: see there.

Numba widens every operation on uint32 to 64 bits, which halves the speed of vector code; the
operations below keep the width of their operands. Compiled code is kept on disk by Numba's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

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


def _operation(name: str) -> Any:
    @intrinsic
    def operation(context: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return a(a, a), code

    return operation


_add, _sub, _and, _or = (_operation(name) for name in ("add", "sub", "and_", "or_"))
_shl, _shr = _operation("shl"), _operation("lshr")


@intrinsic
def _less(context: Any, a: Any, b: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.icmp_unsigned("<", *arguments)

    return types.boolean(a, a), code


@intrinsic
def _where(context: Any, condition: Any, a: Any, b: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return a(condition, a, a), code


@intrinsic
def _through_adder(context: Any, word: Any, constant: Any) -> Any:
    """The bits of (word + constant) - constant, both taken as floating-point numbers."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        real, whole = (
            (ir.FloatType(), ir.IntType(32))
            if signature.return_type == types.uint32
            else (ir.DoubleType(), ir.IntType(64))
        )
        x, c = (builder.bitcast(argument, real) for argument in arguments)
        return builder.bitcast(builder.fsub(builder.fadd(x, c), c), whole)

    return word(word, word), code


@njit(inline="always")
def _max(a: Any, b: Any) -> Any:
    return _where(_less(a, b), b, a)


@njit(inline="always")
def _min(a: Any, b: Any) -> Any:
    return _where(_less(b, a), b, a)


@cache
def _kernel(way: str, carrier: Carrier) -> Callable[[Array, Array, Array, Any], None]:
    """A function of words, results, draws and a plan, compiled at its first call."""
    make = {"magic": _magic, "same exponents": _same_exponents}.get(way)
    kernel: Callable[[Array, Array, Array, Any], None]
    kernel = _dissecting(way, carrier) if make is None else make(carrier)
    return kernel


def _compile(kernel: Callable[..., None]) -> Any:
    return njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)(kernel)


def _magic(carrier: Carrier) -> Any:
    sign_mask, infinity = carrier.sign_mask, carrier.exponent_mask
    magnitude_mask = ~sign_mask
    one, point = carrier.words(1), carrier.words(carrier.fraction_bits)
    half = carrier.words(1 << carrier.fraction_bits - 1)

    def kernel(x: Array, out: Array, draws: Array, p: Any) -> None:
        lowest = _shl(p.emin_field, point)
        highest = _add(_and(p.largest, infinity), _shl(one, point))
        # Makes 1.5·2^(e+dropped) of 2^e: added to the exponent field, and the upper fraction bit.
        to_constant = _or(_shl(p.dropped, point), half)
        for i in range(x.size):
            word = x[i]
            power = _min(_max(_and(word, infinity), lowest), highest)
            result = _and(_through_adder(word, _add(power, to_constant)), magnitude_mask)
            over = _where(_less(infinity, result), result, p.infinite)
            out[i] = _or(_where(_less(p.largest, result), over, result), _and(word, sign_mask))

    return _compile(kernel)


def _same_exponents(carrier: Carrier) -> Any:
    sign_mask, infinity = carrier.sign_mask, carrier.exponent_mask
    magnitude_mask = ~sign_mask
    one, all_bits = carrier.words(1), ~carrier.words(0)
    quiet = carrier.words(1 << carrier.fraction_bits - 1)

    def kernel(x: Array, out: Array, draws: Array, p: Any) -> None:
        below_half = _sub(_shl(one, _sub(p.dropped, one)), one)
        kept_bits = _shl(all_bits, p.dropped)
        for i in range(x.size):
            sign = _and(x[i], sign_mask)
            magnitude = _and(x[i], magnitude_mask)
            odd = _and(_shr(magnitude, p.dropped), one)
            result = _and(_add(_add(magnitude, below_half), odd), kept_bits)
            result = _where(_less(p.largest, result), p.infinite, result)
            result = _where(_less(infinity, magnitude), _or(magnitude, quiet), result)
            out[i] = _or(result, sign)

    return _compile(kernel)


def _dissecting(mode: str, carrier: Carrier) -> Any:
    sign_mask, infinity = carrier.sign_mask, carrier.exponent_mask
    magnitude_mask = ~sign_mask
    point = carrier.words(carrier.fraction_bits)
    zero, one, most = carrier.words(0), carrier.words(1), carrier.words(carrier.fraction_bits + 2)
    quiet = carrier.words(1 << carrier.fraction_bits - 1)

    def kernel(x: Array, out: Array, draws: Array, p: Any) -> None:
        for i in range(x.size):
            sign = _and(x[i], sign_mask)
            magnitude = _and(x[i], magnitude_mask)
            field = _max(_shr(magnitude, point), one)
            base = _shl(_sub(field, one), point)
            significand = _sub(magnitude, base)
            shift = _add(p.dropped, _sub(_max(field, p.emin_field), field))
            shift = _add(shift, _where(_less(magnitude, p.gap_below), p.gap, zero))
            cut = _min(shift, most)
            kept = _shr(significand, cut)
            rest = _sub(significand, _shl(kept, cut))
            if mode == "ties_to_even":
                up = _less(_shl(one, cut), _add(_add(rest, rest), _and(kept, one)))
            elif mode == "ties_to_away":
                up = not _less(_add(rest, rest), _shl(one, cut))
            elif mode == "toward_zero":
                up = False
            elif mode == "toward_negative":
                up = _less(zero, rest) & _less(zero, sign)
            elif mode == "toward_positive":
                up = _less(zero, rest) & (sign == zero)
            elif mode == "to_odd":
                up = _less(zero, rest) & (_and(kept, one) == zero)
            else:
                bits = np.uint64(32)
                wide = np.uint64(shift)
                left = bits - wide if wide < bits else np.uint64(0)
                right = min(wide - bits, np.uint64(63)) if wide > bits else np.uint64(0)
                share = np.uint64(rest) << left >> right
                up = share + np.uint64(draws[i]) >= np.uint64(2**32)
            step = _where(up, one, zero)
            result = _add(_shl(_add(kept, step), cut), base)
            result = _where(_less(zero, kept), result, _where(up, p.smallest, zero))
            beyond = _where(_less(zero, sign), p.beyond_negative, p.beyond_positive)
            result = _where(_less(p.largest, result), beyond, result)
            result = _where(_less(result, p.flush_below), zero, result)
            nan = _or(magnitude, quiet)
            special = _where(_less(infinity, magnitude), nan, p.infinite)
            result = _where(_less(magnitude, infinity), result, special)
            out[i] = _or(result, _where(_less(zero, result), sign, _and(sign, p.zero_sign)))

    return _compile(kernel)
