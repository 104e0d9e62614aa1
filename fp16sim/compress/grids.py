"""Uniform grids: real numbers at equal distances, numbered by integers; and arithmetic on them.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, whose equations are cited as (1) to (12).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.arguments import integer, real
from fp16sim.autograd import Tensor, primitive
from fp16sim.backend import Array, namespace_of
from fp16sim.rounding import float_array


@dataclass(frozen=True, eq=False)
class Grid:
    """A uniform grid, r = S (q - Z) (1), for all of an array or one for each index of an axis.

    ``grid_for`` and ``grid_between`` make them.
    """

    #: S: float32, () or (channels,), above 0
    scale: Array
    #: Z: int32, of the same shape, from low to high, so that 0 is on the grid
    zero_point: Array
    #: the smallest and the largest q
    low: int
    high: int
    #: the axis that channels are counted along; None: one grid for all
    axis: int | None = None

    def along(self, x: Array) -> tuple[Array, Array]:
        """S and Z, shaped to meet an array. Raises ValueError if it has other channels."""
        if self.axis is None:
            return self.scale, self.zero_point
        if not -x.ndim <= self.axis < x.ndim or x.shape[self.axis] != len(self.scale):
            raise ValueError(
                f"x has shape {x.shape}; the grid has {len(self.scale)} channels on axis "
                f"{self.axis}"
            )
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)

    def position(self, x: Array) -> Array:
        """round(x / S) + Z, ties to even, in x's dtype: what q would be on a grid without end."""
        scale, zero_point = self.along(x)
        position: Array = namespace_of(x).rint(x / scale.astype(x.dtype))
        position += zero_point.astype(x.dtype)
        return position


#: a scale is a normal number of fp32
_SCALES = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def grid_between(
    low: ArrayLike, high: ArrayLike, bits: int = 8, *, symmetric: bool = False, axis: int = 0
) -> Grid:
    """The grid of 2^bits steps that reaches from low to high, and holds 0 exactly.

    low, high: finite, low <= high; numbers, or (channels,) for a grid each, counted along ``axis``.
    bits: 2 to 8. Limits that leave out 0 are moved to it; Z is rounded, which moves the grid by
    half a step at most. symmetric: Z = 0 and as many steps on both sides, -127 to 127 of 8 bits,
    reaching to the larger of |low| and |high|: products need no Z then, and one q is not used.
    Between limits of 0 the scale is 1. Raises ValueError or TypeError for anything else.
    """
    bits = integer("bits", bits, at_least=2, at_most=8)
    xp = namespace_of(low) if hasattr(low, "dtype") else np
    a, b = xp.asarray(low, dtype=np.float64), xp.asarray(high, dtype=np.float64)
    if a.shape != b.shape or a.ndim > 1:
        raise ValueError(f"low has shape {a.shape}, high {b.shape}; allowed are (), (channels,)")
    if not bool((xp.isfinite(a) & xp.isfinite(b) & (a <= b)).all()):
        raise ValueError(f"low={low!r}, high={high!r} is not allowed; finite and low <= high")
    a, b = xp.minimum(a, 0.0), xp.maximum(b, 0.0)
    last = 2 ** (bits - 1) - 1
    first = -last if symmetric else -last - 1
    step = xp.maximum(-a, b) / last if symmetric else (b - a) / (last - first)
    step = xp.where(step == 0, 1.0, xp.clip(step, *_SCALES)).astype(np.float32)
    zero = xp.zeros_like(step) if symmetric else xp.clip(xp.rint(first - a / step), first, last)
    return Grid(step, zero.astype(np.int32), first, last, axis if a.ndim else None)


def grid_for(
    x: ArrayLike | Tensor,
    bits: int = 8,
    *,
    symmetric: bool = False,
    axis: int | None = None,
    percentile: float = 100.0,
) -> Grid:
    """The grid that the values of an array need: from their smallest to their largest.

    axis: one grid for each index along it (0: per output channel of a weight); None: one for all.
    percentile: above 50, at most 100; less than 100 leaves out as many of the largest and of the
    smallest values, which will saturate, for a finer grid for the others. bits, symmetric: as for
    ``grid_between``. Raises ValueError for empty arrays, NaN and infinities.
    """
    x, percentile = floats("x", x), real("percentile", percentile, above=50, at_most=100)
    xp = namespace_of(x)
    if not x.size:
        raise ValueError(f"x has shape {x.shape}; a grid needs values")
    others: tuple[int, ...] | None = None
    if axis is not None:
        axis = integer("axis", axis, at_least=-x.ndim, at_most=x.ndim - 1) % x.ndim
        others = tuple(one for one in range(x.ndim) if one != axis)
    if percentile == 100:
        ends = x.min(axis=others), x.max(axis=others)
    else:
        ends = tuple(xp.percentile(x, p, axis=others) for p in (100 - percentile, percentile))
    return grid_between(*ends, bits, symmetric=symmetric, axis=axis or 0)


def quantize(x: ArrayLike | Tensor, grid: Grid) -> Array:
    """q = round(x / S) + Z as int8: ties to even, saturating; infinities saturate as well.

    The quotient is rounded to x's dtype, float32 or float64, before. Raises ValueError for NaN.
    """
    x = floats("x", x)
    xp = namespace_of(x)
    if bool(xp.isnan(x).any()):
        raise ValueError("x has NaN, which no integer stands for")
    with np.errstate(over="ignore"):
        q: Array = xp.clip(grid.position(x), grid.low, grid.high)
    return q.astype(np.int8)


def dequantize(q: Array, grid: Grid) -> Array:
    """S (q - Z) as float32 (1). Raises TypeError if q is not of integers."""
    return (_integers("q", q) - grid.along(q)[1]).astype(np.float32) * grid.along(q)[0]


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """``dequantize(quantize(x, grid), grid)``, with a gradient (12): a Tensor in x's format.

    Rounding has the derivative 0 or none. In its place the gradient passes as it is where x was
    not clipped, and is 0 elsewhere: the straight-through estimator of Bengio, Léonard and
    Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
    Computation", 2013. NaN stays NaN.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a Tensor, got {type(x).__name__}")
    return round_to_grid(x, grid=grid)


@primitive
def round_to_grid(x: Array, *, grid: Grid) -> Any:
    """S (clip(round(x / S) + Z) - Z); the gradient passes where nothing was clipped."""
    xp, (scale, zero_point) = namespace_of(x), grid.along(x)
    position = grid.position(x)
    y = (xp.clip(position, grid.low, grid.high) - zero_point.astype(x.dtype)) * scale
    return y.astype(x.dtype), ((position >= grid.low) & (position <= grid.high),)


@round_to_grid.backward
def _(g: Array, inside: Array) -> Any:
    return (g * inside,)


def integer_linear(
    q: Array,
    q_grid: Grid,
    weight: Array,
    weight_grid: Grid,
    bias: ArrayLike | Tensor | None = None,
    out: Grid | None = None,
) -> Array:
    """x Wᵀ + b in integers (2) to (5): sums of products in int32, exact, and one rescaling.

    q: int8 (..., in) on one grid. weight: int8 (out, in) on one grid, or on one for each row.
    bias: real numbers (out,), which become int32 multiples of S1 S2 (11). out: the results' grid:
    int8 (..., out), Z3 + M · sum with M = S1 S2 / S3 (4), rounded as in ``rescale`` and saturated.
    None: the sums as real numbers, float32. Raises ValueError for sums that int32 does not hold
    (none, below 33 000 inputs, without a bias), and for shapes and grids that do not fit.
    """
    q, weight = _integers("q", q), _integers("weight", weight)
    if weight.ndim != 2 or q.ndim < 1 or q.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight has shape {weight.shape}; q's is {q.shape}: (out, in), (..., in)")
    if q_grid.axis is not None or weight_grid.axis not in (None, 0):
        raise ValueError(f"axis={q_grid.axis} of q_grid, {weight_grid.axis} of weight_grid is not "
                         "allowed; a sum needs None, and None or 0")  # fmt: skip
    if out is not None and out.axis is not None:
        raise ValueError(f"axis={out.axis} of out is not allowed; it must be None")
    xp = namespace_of(q)
    # Integers below 2^53 are exact in float64, whose products are quick.
    x, w = (
        (values - grid.along(values)[1]).astype(np.float64)
        for values, grid in ((q, q_grid), (weight, weight_grid))
    )
    total = x @ w.T
    unit = q_grid.scale.astype(np.float64) * weight_grid.scale.astype(np.float64)
    if bias is not None:
        total += xp.rint(floats("bias", bias) / unit)
    if not bool((abs(total) < 2**31).all()):
        raise ValueError(f"a sum is {float(abs(total).max()):g}; int32 holds those below 2^31")
    if out is None:
        return (total * unit).astype(np.float32)
    moved = rescale(total.astype(np.int32), unit / out.scale.astype(np.float64)) + out.zero_point
    saturated: Array = xp.clip(moved, out.low, out.high)
    return saturated.astype(np.int8)


def rescale(total: Array, multiplier: ArrayLike) -> Array:
    """total · M in integers, ties to even: int64, of total's shape.

    total: int32. multiplier: M > 0, below 2^30, a number or an array of its last axis's length. It
    becomes M0 / 2^n with an integer M0 of at most 2^31 (6): a factor, and a shift that rounds.
    """
    total = _integers("total", total).astype(np.int64)
    xp = namespace_of(total)
    m = xp.asarray(multiplier, dtype=np.float64)
    if not bool(((m > 0) & (m < 2**30)).all()):
        raise ValueError(f"multiplier={multiplier!r} is not allowed; it must be in (0, 2^30)")
    # Below 2^-31 there are fewer bits left in M0: all products are less than a half then.
    shift = xp.minimum(31 - xp.frexp(m)[1], 62).astype(np.int64)
    product = total * xp.rint(xp.ldexp(m, shift.astype(np.int32))).astype(np.int64)
    quotient = product >> shift
    rest, half = product - (quotient << shift), xp.left_shift(xp.ones_like(shift), shift - 1)
    up = (rest > half) | ((rest == half) & (quotient & 1 == 1))
    rounded: Array = quotient + up.astype(np.int64)
    return rounded


def floats(name: str, x: object) -> Array:
    """As float32, or float64 if it is that: an array's values, or a Tensor's."""
    return float_array(x.data if isinstance(x, Tensor) else x, name, gpu=True)[0]


def _integers(name: str, q: object) -> Array:
    dtype = getattr(q, "dtype", None)
    if dtype is None or dtype.kind != "i":
        raise TypeError(f"{name} must be an array of signed integers, got {dtype or q!r}")
    array: Array = namespace_of(q).asarray(q)
    return array
