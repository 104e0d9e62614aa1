"""Products of operands that are quantized to 8 bits with scales, as ``torch._scaled_mm``."""

from __future__ import annotations

from typing import Any

from fp16sim import events
from fp16sim.autograd.ops.fused import as_rows
from fp16sim.autograd.primitive import primitive
from fp16sim.autograd.tape import recording
from fp16sim.backend import Array
from fp16sim.recipes import Quantized, Recipe


@primitive
def scaled_linear(x: Array, weight: Array, *bias: Array, recipe: Recipe) -> Any:
    """x Wᵀ + b as ``linear``, of operands quantized to 8 bits as the recipe says.

    The quantized operands are what backward keeps; the gradient is quantized, too, for both of its
    products, but not for the bias. The products are added in the carrier, by BLAS.
    """
    scope = events.current_scope()
    line = events.calling_line() if events.observed() else ""

    def quantize(part: Array, role: str, record: bool = True) -> tuple[Quantized, Quantized]:
        return recipe.quantize(part, events.Origin(scope, "quantize", role, line), record)

    x_along_in, x_along_rows = quantize(as_rows(x), "activation", recording())
    w_along_in, w_along_out = quantize(weight, "weight", recording())
    y = _product(x_along_in, w_along_in)
    for b in bias:
        y += b
    residuals = (x_along_rows, w_along_out, x.shape, bool(bias), quantize)
    return y.reshape(*x.shape[:-1], len(weight)), residuals


@scaled_linear.backward
def _(
    g: Array, x: Quantized, weight: Quantized, shape: tuple[int, ...], has_bias: bool, quantize: Any
) -> Any:
    rows = as_rows(g)
    kept: list[tuple[Quantized, Quantized]] = []

    def gradient() -> tuple[Quantized, Quantized]:
        """Quantized when it is first wanted, once: along its columns (out), along its rows."""
        if not kept:
            kept.append(quantize(rows, "activation gradient"))
        return kept[0]

    of_input = lambda: _product(gradient()[0], _turned(weight)).reshape(shape)
    of_weight = lambda: _product(_turned(gradient()[1]), _turned(x))
    of_bias = lambda: rows.sum(axis=0)
    return (of_input, of_weight, of_bias) if has_bias else (of_input, of_weight)


def _product(x: Quantized, y: Quantized) -> Array:
    """x yᵀ, added along the last axes, in the scale of what was quantized."""
    product: Array = x.values @ y.values.T
    product *= x.inverse * y.inverse
    return product


def _turned(x: Quantized) -> Quantized:
    return x._replace(values=x.values.T)
