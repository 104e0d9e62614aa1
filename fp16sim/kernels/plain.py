"""Functions of one number in the carrier's own precision: as a GPU computes them, before rounding.

float32 values within a few units in the last place (gelu where it is tiny: 2^-16 of its value;
sigmoid and silu of what is below -88: zero),
float64 ones as good as NumPy's. What is rounded to a narrow format should be more exact: see
``elementary``. The slopes are for backward rules, which multiply them by a gradient and round once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fp16sim.backend import Array, namespace_of
from fp16sim.kernels.elementary import elementwise

# Values a block: what a function needs in between stays in the second fastest cache.
BLOCK = 2**15


def evaluate(name: str, x: Array) -> Array:
    """The function of that name of every value of a float32 or float64 array, in its dtype."""
    xp, function = namespace_of(x), FUNCTIONS[name]
    flat = xp.ascontiguousarray(x).reshape(-1)
    if xp is not np or flat.size <= BLOCK:
        whole: Array = function(flat).reshape(x.shape)
        return whole
    out = np.empty(x.shape, x.dtype)
    into = out.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        into[start : start + BLOCK] = function(flat[start : start + BLOCK])
    return out


def _numpys(name: str) -> Callable[[Array], Any]:
    return lambda x: getattr(namespace_of(x), name)(x)


def _sigmoid(x: Array) -> Any:
    xp = namespace_of(x)
    e = xp.exp(xp.negative(x))
    e += 1
    return xp.divide(1, e, out=e)


def _softplus(x: Array) -> Any:
    xp = namespace_of(x)
    e = xp.abs(x)
    e = xp.log1p(xp.exp(xp.negative(e, out=e), out=e), out=e)
    e += xp.maximum(x, 0)
    return e


def _silu(x: Array) -> Any:
    return namespace_of(x).maximum(x, -800) * _sigmoid(x)  # not -infinity times zero


def _silu_slope(x: Array) -> Any:
    s = _sigmoid(x)
    return s * (1 + namespace_of(x).clip(x, -800, 800) * (1 - s))


# erfcx(z) = e^(z²) erfc(z), over t = 1 / (1 + 0.4 z), is a polynomial in t for z >= 0 to within
# 7e-9 of its value: a fit at the Chebyshev points of (0, 1], weighted for relative errors. The idea
# of such a t: Press et al., Numerical Recipes, 3rd ed., section 6.2.2.
_ERFCX = (
    0.225675833, 0.225676081, 0.207608054, 0.171802345, 0.118634124, 0.0852281592,
    -0.0497441416, 0.141435465, -0.238736198, 0.141926705, -0.0295064323,
)  # fmt: skip


def _normal(x: Array) -> tuple[Any, Any]:
    """The normal distribution's Φ(x), and e^(-x²/2)."""
    xp = namespace_of(x)
    bell = xp.exp(x * x * -0.5)
    z = xp.abs(x) * math.sqrt(0.5)
    if x.dtype == np.float64:
        tail = elementwise(math.erfc, z) if xp is np else _scipy_of_cupy().erfc(z)
        tail *= 0.5
    else:
        t = 1 / (0.4 * z + 1)
        tail = xp.full_like(t, _ERFCX[-1])
        for coefficient in _ERFCX[-2::-1]:
            tail *= t
            tail += coefficient
        tail *= t
        tail *= bell
        tail *= 0.5
    return xp.where(x < 0, tail, 1 - tail), bell


def _scipy_of_cupy() -> Any:
    import cupyx.scipy.special

    return cupyx.scipy.special


def _gelu(x: Array) -> Any:
    return namespace_of(x).maximum(x, -50) * _normal(x)[0]


def _gelu_slope(x: Array) -> Any:
    x = namespace_of(x).clip(x, -50, 50)
    below, bell = _normal(x)
    return below + x * bell * (1 / math.sqrt(2 * math.pi))


# (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) with 2u = _INNER · (x + _CUBIC · x³). In place where it can
# be: a new array costs more than the arithmetic on it.
_INNER, _CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715


def _one_plus_power(x: Array, square: Array) -> Array:
    """1 + e^-2u, from x and x²."""
    e: Array = square * -(_INNER * _CUBIC)
    e -= _INNER
    e *= x
    e = namespace_of(x).exp(e, out=e)
    e += 1
    return e


def _gelu_tanh(x: Array) -> Any:
    xp = namespace_of(x)
    x = xp.maximum(x, -50)
    e = _one_plus_power(x, x * x)
    return xp.divide(x, e, out=e)


def _gelu_tanh_slope(x: Array) -> Any:
    # With s = sigmoid(2u) it is s + x·s·(1 - s)·2u' = s · (1 + x·(1 - s)·2u').
    xp = namespace_of(x)
    x = xp.clip(x, -50, 50)
    square = x * x
    s = _one_plus_power(x, square)
    s = xp.divide(1, s, out=s)
    square *= 3 * _INNER * _CUBIC
    square += _INNER
    square *= x
    square *= 1 - s
    square += 1
    square *= s
    return square


FUNCTIONS: dict[str, Callable[[Array], Any]] = {
    "exp": _numpys("exp"),
    "log": _numpys("log"),
    "sin": _numpys("sin"),
    "cos": _numpys("cos"),
    "tanh": _numpys("tanh"),
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "silu": _silu,
    "silu_slope": _silu_slope,
    "gelu": _gelu,
    "gelu_slope": _gelu_slope,
    "gelu_tanh": _gelu_tanh,
    "gelu_tanh_slope": _gelu_tanh_slope,
}
