"""Rounding CuPy arrays where they are, in one elementwise kernel, which dissects: see ``cpu``.

It works on words of bits, so that -ftz, with which CuPy compiles it, flushes nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy

from fp16sim.backend import Array, Draw
from fp16sim.formats import Format
from fp16sim.kernels.cpu import BLOCK
from fp16sim.kernels.layout import Carrier, Plan, carrier_for, plan

#: does what is kept go up by one? In C, by mode; ``unit`` is one at the last kept place
GOES_UP = {
    "ties_to_even": "rest + rest + (kept & 1) > unit",
    "ties_to_away": "rest + rest >= unit",
    "toward_zero": "false",
    "toward_negative": "rest && sign",
    "toward_positive": "rest && !sign",
    "to_odd": "rest && !(kept & 1)",
    "stochastic": "share + draws[i] >= 1ull << 32",
}

#: C statements from ``word`` to ``result``; W is the unsigned type of the carrier's words
ROUND = """
const W sign = word & SIGN, magnitude = word ^ sign;
const W shifted = magnitude >> POINT, field = shifted ? shifted : 1;
const W base = (field - 1) << POINT, significand = magnitude - base;
W shift = dropped + (emin_field > field ? emin_field - field : 0);
if (magnitude < gap_below) shift += gap;
const W cut = shift < POINT + 2 ? shift : POINT + 2, unit = W(1) << cut;
const W kept = significand >> cut, rest = significand - (kept << cut);
const W left = shift < 32 ? 32 - shift : 0;
const W right = shift > 32 ? (shift - 32 < 63 ? shift - 32 : 63) : 0;
const unsigned long long share = (unsigned long long)rest << left >> right;
const bool up = GOES_UP;
W rounded = ((kept + up) << cut) + base;
if (!kept) rounded = up ? smallest : 0;
if (rounded > largest) rounded = sign ? beyond_negative : beyond_positive;
if (rounded < flush_below) rounded = 0;
if (magnitude == INFINITE) rounded = infinite;
if (magnitude > INFINITE) rounded = magnitude | W(1) << (POINT - 1);
result = rounded | (rounded ? sign : sign & zero_sign);
"""


def constants(carrier: Carrier) -> dict[str, str]:
    """What the names in capitals stand for."""
    return {
        "SIGN": f"W({carrier.sign_mask}ull)",
        "INFINITE": f"W({carrier.exponent_mask}ull)",
        "POINT": f"W({carrier.fraction_bits})",
    }


def source(mode: str, carrier: Carrier) -> str:
    """The statements for a mode and a carrier."""
    code = ROUND.replace("GOES_UP", GOES_UP[mode])
    for name, value in constants(carrier).items():
        code = code.replace(name, value)
    return code


@cache
def _kernel(mode: str, carrier: Carrier) -> Any:
    arguments = ", ".join(f"W {name}" for name in Plan._fields)
    return cupy.ElementwiseKernel(
        f"W word, raw uint32 draws, {arguments}",
        "W result",
        source(mode, carrier),
        f"round_{mode}",
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
    """What ``cpu.round_array`` does, with the same bits; random numbers come from the host."""
    carrier = carrier_for(x.dtype)
    constants = plan(fmt, mode, saturate, subnormals, carrier)
    words, rounded = x.view(carrier.words), out.view(carrier.words)
    kernel = _kernel(mode, carrier)
    block_size = BLOCK if draw is not None else max(x.size, 1)
    for start in range(0, x.size, block_size):
        block = slice(start, start + block_size)
        drawn = cupy.empty(1, cupy.uint32) if draw is None else cupy.asarray(draw(x[block].size))
        kernel(words[block], drawn, *constants, rounded[block])
