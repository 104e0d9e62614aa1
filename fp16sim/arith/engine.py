"""The engine's door: values of functions before they are rounded, and slopes. No checks here."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import numpy as np

from fp16sim.arith.blockwise import flat64
from fp16sim.arith.unary import table_entries
from fp16sim.backend import Array, namespace_of
from fp16sim.formats import FP32, Format
from fp16sim.kernels import elementary, plain
from fp16sim.rounding import Rounding


def before_rounding(name: str, x: Array, fmt: Format) -> Array:
    """A function's values at numbers of ``fmt``; rounded once to it they are right.

    x: a float32 or float64 array. Precisions of up to 11 bits are served from a table, those up to
    fp32's from float64 values; fp32 and fp64 are evaluated in themselves, to within some ulps.
    """
    if fmt.precision <= 11 and x.dtype == np.float32:
        return _gathered("value", name, x, fmt.precision)
    if fmt.precision < FP32.precision and namespace_of(x) is np:
        return elementary.evaluate(name, x.astype(np.float64))
    return plain.evaluate(name, x)


def slope(name: str, x: Array, fmt: Format) -> Array:
    """A function's derivative at numbers of ``fmt``, in the carrier's precision."""
    if fmt.precision <= 11 and x.dtype == np.float32:
        return _gathered("slope", name, x, fmt.precision)
    return plain.evaluate(f"{name}_slope", x)


def _gathered(kind: str, name: str, x: Array, precision: int) -> Array:
    xp = namespace_of(x)
    index = x.view(np.uint32) >> np.uint32(FP32.precision - precision)
    # No index is out of range; "clip" spares NumPy the check. CuPy never checks.
    how = {"mode": "clip"} if xp is np else {}
    values: Array = xp.take(_table(xp, kind, name, precision), index, **how)
    return values


@lru_cache(maxsize=64)
def _table(xp: ModuleType, kind: str, name: str, precision: int) -> Array:
    """All float32 numbers of a precision in, float32 values out."""
    if xp is not np:
        table: Array = xp.asarray(_table(np, kind, name, precision))
        return table
    entries = table_entries(precision)
    if kind == "slope":
        with np.errstate(all="ignore"):
            return plain.evaluate(f"{name}_slope", entries)
    # To odd: rounding once more, to 11 bits at most, then sees on which side the exact value lay.
    exact = elementary.evaluate(name, flat64(entries))
    odd: Array = Rounding(FP32, "to_odd")(exact).astype(np.float32)
    return odd
