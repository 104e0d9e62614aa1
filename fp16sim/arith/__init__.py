"""Arithmetic whose results are rounded once, to any format and in any mode.

``add`` to ``remainder`` are correctly rounded for every format: the exact result of the operands
*as they are given* (any float32 or float64 values; round them first if they should be numbers of
the format), rounded once. These are the *formatOf* operations of IEEE 754-2019, section 5.4. So
are ``exp`` to ``gelu`` for every number of a format of up to 16 bits. In wider formats, and for
operands with more bits than the format, they round a float64 value once, which is not proved to
be correct: hardly ever wrong in fp32; in fp64 with the error of the evaluation, some ulps, and many
more in the far negative tail of gelu. There (beyond 40 bits) they do not count as inexact.

All take arrays of float16, float32 or float64 (or ml_dtypes types, or Python floats), broadcast
as NumPy does, and the keywords of ``round_to``: saturate, subnormals, rng, random_bits. They
return float32, or float64 if an operand is or the format needs it, and never warn; IEEE 754's
exceptions are counted by ``status_flags``.

Stochastic rounding takes inexact results as float64 rounded to odd has them: to p bits, a
probability is right to 2^(p-53).

Most results are decided in float64, block by block. Those that float64 has no room for go one by
one through exact fractions, some twenty microseconds each: operands beyond 2^±250, formats of more
than 51 bits (but to nearest even fp64 is the machine's own, except for fma).
"""

from fp16sim.arith.blockwise import BLOCK
from fp16sim.arith.comparisons import equal, greater, greater_equal, less, less_equal, not_equal
from fp16sim.arith.engine import before_rounding, slope
from fp16sim.arith.rational import add, divide, fma, multiply, remainder, rint, subtract
from fp16sim.arith.unary import (
    cos,
    erf,
    exp,
    exp2,
    expm1,
    gelu,
    log,
    log1p,
    log2,
    reciprocal,
    rsqrt,
    sigmoid,
    silu,
    sin,
    softplus,
    sqrt,
    tanh,
)

__all__ = [
    "BLOCK",
    "add",
    "before_rounding",
    "cos",
    "divide",
    "equal",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "fma",
    "gelu",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "multiply",
    "not_equal",
    "reciprocal",
    "remainder",
    "rint",
    "rsqrt",
    "sigmoid",
    "silu",
    "sin",
    "slope",
    "softplus",
    "sqrt",
    "subtract",
    "tanh",
]
