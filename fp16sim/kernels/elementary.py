"""Elementary functions in float64, with what is known about the side of the true result.

A float64 value with an error of some ulps decides a rounding to a format of up to 16 bits, unless
the true result is within that error of a number or midpoint of the format. For rational x that
happens where the function is rational (exp(0) = 1: exact, and float64 gives it so) and near its
*anchors*: exp(x) is next to 1 for tiny x, tanh(x) next to 1 for large, sin(x) next to x. There the
series says on which side of the anchor the true result lies, and the value is made that anchor,
rounded to odd towards that side (see ``sticky``). That nothing else happens is proved by trying
all inputs against MPFR (``tests/differential/test_against_mpfr.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fp16sim.backend import Array, namespace_of
from fp16sim.kernels.sticky import to_odd

#: pairs of what the result may be close to, and the sign of the true result minus that
Anchors: TypeAlias = list[tuple[Any, Any]]
Function: TypeAlias = Callable[[Array], tuple[Array, Anchors]]

# Results nearer to an anchor than this, relative to it, are taken to be next to it: more than the
# error of any function here, and less than half a spacing of formats of up to 40 bits.
NEAR = 2.0**-45

# What stands for a result too small or too large for float64, which no narrower format has.
TINY, HUGE = 2.0**-1060, 2.0**1020


def evaluate(name: str, x: Array, anchored: bool = True) -> Array:
    """A function's float64 values, ready to be rounded once to a format of up to 40 bits.

    x: a float64 array. anchored=False leaves the anchors out: for float64 results, where the plain
    value is the better one. Zeros, infinities and NaN are as in C's Annex F. Never warns.
    """
    with np.errstate(all="ignore"):
        value, anchors = FUNCTIONS[name](x)
        if not anchored:
            return value
        xp = namespace_of(x)
        for anchor, side in anchors:
            near = (xp.abs(value - anchor) <= NEAR * xp.abs(anchor)) & xp.isfinite(x)
            base, towards = (
                xp.broadcast_to(xp.asarray(part, np.float64), x.shape) for part in (anchor, side)
            )
            value = xp.where(near, to_odd(base, towards), value)
        return value


def _exp(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    return _in_range(x, xp.exp(x)), [(1.0, xp.sign(x))]


def _exp2(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    whole = x == xp.rint(x)
    power = xp.ldexp(1.0, xp.where(whole, xp.clip(x, -2000, 2000), 0).astype(np.int32))
    return _in_range(x, xp.where(whole, power, xp.exp2(x))), [(1.0, xp.sign(x))]


def _expm1(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    value = xp.expm1(x)
    value = xp.where(xp.isfinite(x) & xp.isinf(value), HUGE, value)
    return value, [(x, x != 0), (-1.0, 1.0)]  # x + x²/2; e^x is positive


def _log(x: Array) -> tuple[Array, Anchors]:
    return namespace_of(x).log(x), []


def _log2(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    significand, exponent = xp.frexp(x)
    return xp.where(significand == 0.5, exponent - 1.0, xp.log2(x)), []


def _log1p(x: Array) -> tuple[Array, Anchors]:
    return namespace_of(x).log1p(x), [(x, -1.0 * (x != 0))]  # x - x²/2


def _sin(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    return xp.sin(x), [(x, -xp.sign(x)), (1.0, -1.0), (-1.0, 1.0)]  # x - x³/6; x is rational


def _cos(x: Array) -> tuple[Array, Anchors]:
    return namespace_of(x).cos(x), [(1.0, -1.0 * (x != 0)), (-1.0, 1.0)]  # 1 - x²/2


def _tanh(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    return xp.tanh(x), [(x, -xp.sign(x)), (1.0, -1.0), (-1.0, 1.0)]  # x - x³/3


def _erf(x: Array) -> tuple[Array, Anchors]:
    return _elementwise(math.erf, x), [(1.0, -1.0), (-1.0, 1.0)]


def _rsqrt(x: Array) -> tuple[Array, Anchors]:
    return 1.0 / namespace_of(x).sqrt(x), []


def _logistic(x: Array) -> Array:
    """1 / (1 + e^-x), from e^-|x| so that nothing overflows; small values to full precision."""
    xp = namespace_of(x)
    e = xp.exp(-xp.abs(x))
    value: Array = xp.where(x >= 0, 1.0, e) / (1.0 + e)
    return value


def _sigmoid(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    return _in_range(x, _logistic(x)), [(0.5, xp.sign(x)), (1.0, -1.0)]  # 1/2 + x/4


def _softplus(x: Array) -> tuple[Array, Anchors]:
    xp = namespace_of(x)
    value = xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x)))
    return _in_range(x, value), [(x, 1.0)]


def _silu(x: Array) -> tuple[Array, Anchors]:
    return _gated(x, _logistic(x))


def _gelu(x: Array) -> tuple[Array, Anchors]:
    return _gated(x, 0.5 * _elementwise(math.erfc, x * -math.sqrt(0.5)))


def _gelu_tanh(x: Array) -> tuple[Array, Anchors]:
    # 1 + tanh(u) = 2 / (1 + e^-2u), without cancellation
    return _gated(x, _logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gated(x: Array, gate: Array) -> tuple[Array, Anchors]:
    """x times a gate that rises from 0 through 1/2 at 0 to 1: x/2 + c·x², c > 0, near zero."""
    xp = namespace_of(x)
    value = xp.where(x == -np.inf, -0.0, x * gate)
    value = xp.where((value == 0) & (x < 0) & xp.isfinite(x), -TINY, value)
    return value, [(x / 2, 1.0 * (x != 0)), (x, -1.0 * (x > 0))]


def _in_range(x: Array, value: Array) -> Array:
    """Values of a positive function: for finite x neither zero nor infinite."""
    xp = namespace_of(x)
    in_range: Array = xp.where(xp.isfinite(x), xp.clip(value, TINY, HUGE), value)
    return in_range


def _elementwise(function: Callable[[float], float], x: Array) -> Array:
    """A function of the C library that NumPy lacks, one number after the other."""
    xp = namespace_of(x)
    if xp is not np:
        from cupyx.scipy import special

        special_function: Callable[[Array], Array] = getattr(special, function.__name__)
        return special_function(x)
    return np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


FUNCTIONS: dict[str, Function] = {
    "exp": _exp,
    "exp2": _exp2,
    "expm1": _expm1,
    "log": _log,
    "log2": _log2,
    "log1p": _log1p,
    "sin": _sin,
    "cos": _cos,
    "tanh": _tanh,
    "erf": _erf,
    "rsqrt": _rsqrt,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}
