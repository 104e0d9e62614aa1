"""Elementary functions in float64, with what is known about the side of the true result.

A float64 value with an error of some ulps decides a rounding to a format of up to 16 bits, unless
the true result is within that error of a number or midpoint of the format. For rational x that
happens where the function is rational (exp(0) = 1: exact, and float64 gives it so) and near its
*anchors*: exp(x) is next to 1 for tiny x, next to 0 for very negative, sin(x) next to x. There the
series says on which side of the anchor the true result lies, and the value is made that anchor,
rounded to odd towards that side (see ``sticky``). That nothing else happens is proved by trying
all inputs against MPFR (``tests/differential/test_against_mpfr.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fp16sim.backend import Array
from fp16sim.kernels.sticky import to_odd

#: pairs of what the result may be close to, and the sign of the true result minus that
Anchors: TypeAlias = list[tuple[Any, Any]]
Function: TypeAlias = Callable[[Array], tuple[Array, Anchors]]

# Results nearer to an anchor than this, relative to it, are taken to be next to it: more than the
# error of any function here, and less than half a spacing of formats of up to 40 bits.
NEAR = 2.0**-45


def evaluate(name: str, x: Array, anchored: bool = True) -> Array:
    """A function's float64 values, ready to be rounded once to a format of up to 40 bits.

    x: a float64 array. anchored=False leaves the anchors out: for float64 results, where the plain
    value is the better one. Zeros, infinities and NaN are as in C's Annex F. Never warns.
    """
    with np.errstate(all="ignore"):
        value, anchors = FUNCTIONS[name](x)
        if not anchored:
            return value
        for anchor, side in anchors:
            close = np.abs(value - anchor) <= NEAR * np.abs(anchor)
            near = ((close & np.isfinite(anchor)) | (value == anchor)) & np.isfinite(x)
            if not near.any():
                continue
            base, towards = (
                np.broadcast_to(np.asarray(part, np.float64), x.shape) for part in (anchor, side)
            )
            value = np.where(near, to_odd(base, towards), value)
        return value


#: A positive function's result for finite x is not zero and not infinite, whatever float64 says.
POSITIVE: Anchors = [(0.0, 1.0), (np.inf, -1.0)]


def out_of_range(name: str, x: Array) -> Array:
    """Where float64 makes zero or infinity of a result that is neither."""
    with np.errstate(all="ignore"):
        value = FUNCTIONS[name](x)[0]
    lost = np.zeros(x.shape, bool)
    if name in NEVER_ZERO or name in GATED:
        lost |= (value == 0) & ((x != 0) | (name in NEVER_ZERO))
    if name in BOUNDLESS:
        lost |= np.isinf(value)
    lost &= np.isfinite(x)
    return lost


def _exp(x: Array) -> tuple[Array, Anchors]:
    return np.exp(x), [(1.0, np.sign(x)), *POSITIVE]


def _exp2(x: Array) -> tuple[Array, Anchors]:
    whole = x == np.rint(x)
    power = np.ldexp(1.0, np.where(whole, np.clip(x, -2000, 2000), 0).astype(np.int32))
    return np.where(whole, power, np.exp2(x)), [(1.0, np.sign(x)), *POSITIVE]


def _expm1(x: Array) -> tuple[Array, Anchors]:
    return np.expm1(x), [(x, x != 0), (-1.0, 1.0), (np.inf, -1.0)]  # x + x²/2; e^x is positive


def _log(x: Array) -> tuple[Array, Anchors]:
    return np.log(x), []


def _log2(x: Array) -> tuple[Array, Anchors]:
    significand, exponent = np.frexp(x)
    return np.where(significand == 0.5, exponent - 1.0, np.log2(x)), []


def _log1p(x: Array) -> tuple[Array, Anchors]:
    return np.log1p(x), [(x, -1.0 * (x != 0))]  # x - x²/2


def _sin(x: Array) -> tuple[Array, Anchors]:
    return np.sin(x), [(x, -np.sign(x)), (1.0, -1.0), (-1.0, 1.0)]  # x - x³/6; x is rational


def _cos(x: Array) -> tuple[Array, Anchors]:
    return np.cos(x), [(1.0, -1.0 * (x != 0)), (-1.0, 1.0)]  # 1 - x²/2


def _tanh(x: Array) -> tuple[Array, Anchors]:
    return np.tanh(x), [(x, -np.sign(x)), (1.0, -1.0), (-1.0, 1.0)]  # x - x³/3


def _erf(x: Array) -> tuple[Array, Anchors]:
    return elementwise(math.erf, x), [(1.0, -1.0), (-1.0, 1.0)]


def _rsqrt(x: Array) -> tuple[Array, Anchors]:
    return 1.0 / np.sqrt(x), []


def _logistic(x: Array) -> Array:
    """1 / (1 + e^-x), from e^-|x| so that nothing overflows; small values to full precision."""
    e = np.exp(-np.abs(x))
    value: Array = np.where(x >= 0, 1.0, e) / (1.0 + e)
    return value


def _sigmoid(x: Array) -> tuple[Array, Anchors]:
    return _logistic(x), [(0.5, np.sign(x)), (1.0, -1.0), *POSITIVE]  # 1/2 + x/4


def _softplus(x: Array) -> tuple[Array, Anchors]:
    value = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    return value, [(x, 1.0), *POSITIVE]


def _silu(x: Array) -> tuple[Array, Anchors]:
    return _gated(x, _logistic(x))


def _gelu(x: Array) -> tuple[Array, Anchors]:
    return _gated(x, 0.5 * elementwise(math.erfc, x * -math.sqrt(0.5)))


def _gelu_tanh(x: Array) -> tuple[Array, Anchors]:
    # 1 + tanh(u) = 2 / (1 + e^-2u), without cancellation
    return _gated(x, _logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gated(x: Array, gate: Array) -> tuple[Array, Anchors]:
    """x times a gate that rises from 0 through 1/2 at 0 to 1: x/2 + c·x², c > 0, near zero."""
    value = np.where(x == -np.inf, -0.0, x * gate)
    return value, [(x / 2, 1.0 * (x != 0)), (x, -1.0 * (x > 0)), (x * 0.0, -1.0 * (x < 0))]


def elementwise(function: Callable[[float], float], x: Array) -> Array:
    """A function of the C library that NumPy lacks, one number after the other."""
    return np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


#: functions that are infinite for no finite x, whatever float64 says
BOUNDLESS = ("exp", "exp2", "expm1")
#: functions that are zero for no finite x
NEVER_ZERO = ("exp", "exp2", "sigmoid", "softplus")
#: functions that are zero at zero only, and approach it from below
GATED = ("silu", "gelu", "gelu_tanh")

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
