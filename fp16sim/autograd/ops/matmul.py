"""The matrix product. Products accumulate in the carrier (BLAS, in its own order of summation)."""

from __future__ import annotations

from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array


@primitive
def matmul(x: Array, y: Array) -> Any:
    """x @ y for x (..., m, k) and y (..., k, n); leading axes broadcast."""
    return x @ y, (x, y)


@matmul.backward
def _(g: Array, x: Array, y: Array) -> Any:
    return lambda: g @ y.swapaxes(-1, -2), lambda: x.swapaxes(-1, -2) @ g
