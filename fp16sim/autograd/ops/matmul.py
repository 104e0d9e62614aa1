"""The matrix product, added up as the policy says: by default in the carrier, in BLAS's order."""

from __future__ import annotations

from typing import Any

from fp16sim.autograd.primitive import primitive
from fp16sim.backend import Array


@primitive(multiplies=True)
def matmul(x: Array, y: Array, *, multiply: Any) -> Any:
    """x @ y for x (..., m, k) and y (..., k, n); leading axes broadcast."""
    return multiply(x, y), (x, y, multiply)


@matmul.backward
def _(g: Array, x: Array, y: Array, multiply: Any) -> Any:
    return lambda: multiply(g, y.swapaxes(-1, -2)), lambda: multiply(x.swapaxes(-1, -2), g)
