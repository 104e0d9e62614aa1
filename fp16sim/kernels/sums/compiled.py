"""``sums.cpu`` in one loop, compiled by Numba: the same bits.

Four products are added to a sum while it is in a register; the loop over results is vector code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from numba import njit

from fp16sim.backend import Array
from fp16sim.formats import Format
from fp16sim.kernels.layout import Carrier, plan
from fp16sim.kernels.sums.cpu import Native, Nearest
from fp16sim.kernels.words import (
    add,
    and_,
    compiled,
    float_of,
    larger,
    less,
    or_,
    shl,
    smaller,
    through_adder,
    where,
    word_of,
)

#: the orders that are compiled
METHODS = ("sequential", "fma", "kahan")

#: adds the products of factors (k, m, 1) and (k, 1, n), or (k, t) twice, to sums (m, n) or (t);
#: the last argument is of their shape, and what Kahan's order remembers
Advance: TypeAlias = Callable[[Array, Array, Array, Array], None]


def advance(calc: Native, method: str, fmt: Format, saturate: bool) -> Advance:
    """What ``orders`` do with this arithmetic, as a function that can be called again and again."""
    carrier = calc.carrier
    small = large_products = large_sums = False
    if isinstance(calc, Nearest):
        small, large_products = calc.small_products, calc.large_products
        large_sums = calc.large_sums
    constants = plan(fmt, "ties_to_even", saturate, True, carrier)
    flags = (isinstance(calc, Nearest), small, large_products, large_sums)
    matrices, vectors = _kernels(carrier, method, *flags)

    def run(left: Array, right: Array, total: Array, error: Array) -> None:
        kernel = vectors if total.ndim == 1 else matrices
        shape = (len(left), -1)
        kernel(left.reshape(shape), right.reshape(shape), total, error, constants)

    return run


@cache
def _kernels(
    carrier: Carrier, method: str, rounds: bool, small: bool, large_products: bool, large_sums: bool
) -> tuple[Any, Any]:
    sign_mask, infinity = carrier.sign_mask, carrier.exponent_mask
    magnitude_mask = ~sign_mask
    one, point = carrier.words(1), carrier.words(carrier.fraction_bits)
    half = carrier.words(1 << carrier.fraction_bits - 1)
    kahan, fused = method == "kahan", method == "fma"

    def rounding(clips_below: bool, overflows: bool) -> Any:
        @njit(inline="always")
        def rounded(x: Any, p: Any) -> Any:
            if not rounds:
                return x
            word = word_of(x)
            power = and_(word, infinity)
            if clips_below:
                power = larger(power, shl(p.emin_field, point))
            if overflows:
                power = smaller(power, add(and_(p.largest, infinity), shl(one, point)))
            # 1.5·2^(e+dropped) of 2^e: added to the exponent field, and the upper fraction bit.
            result = through_adder(word, add(power, or_(shl(p.dropped, point), half)))
            if overflows:
                size = and_(result, magnitude_mask)
                over = where(less(infinity, size), size, p.infinite)
                size = where(less(p.largest, size), over, size)
                result = or_(size, and_(result, sign_mask))
            return float_of(result)

        return rounded

    round_product = rounding(small, large_products)
    round_sum = rounding(fused, large_sums)

    @njit(inline="always")
    def step(total: Any, error: Any, x: Any, y: Any, p: Any) -> Any:
        if fused:
            return round_sum(x * y + total, p), error
        term = round_product(x * y, p)
        if kahan:
            term = round_sum(term - error, p)
            before = total
            total = round_sum(total + term, p)
            error = round_sum(round_sum(total - before, p) - term, p)
            return total, error
        return round_sum(total + term, p), error

    def matrices(left: Array, right: Array, totals: Array, errors: Array, p: Any) -> None:
        length = left.shape[0]
        whole = length - length % 4
        for i in range(left.shape[1]):
            total, error = totals[i], errors[i]
            for k in range(0, whole, 4):
                x0, x1, x2, x3 = left[k, i], left[k + 1, i], left[k + 2, i], left[k + 3, i]
                y0, y1, y2, y3 = right[k], right[k + 1], right[k + 2], right[k + 3]
                for j in range(total.size):
                    t, e = total[j], error[j] if kahan else total[j]
                    t, e = step(t, e, x0, y0[j], p)
                    t, e = step(t, e, x1, y1[j], p)
                    t, e = step(t, e, x2, y2[j], p)
                    t, e = step(t, e, x3, y3[j], p)
                    total[j] = t
                    if kahan:
                        error[j] = e
            for k in range(whole, length):
                for j in range(total.size):
                    e = error[j] if kahan else total[j]
                    total[j], e = step(total[j], e, left[k, i], right[k, j], p)
                    if kahan:
                        error[j] = e

    def vectors(left: Array, right: Array, total: Array, error: Array, p: Any) -> None:
        for k in range(left.shape[0]):
            x, y = left[k], right[k]
            for j in range(total.size):
                e = error[j] if kahan else total[j]
                total[j], e = step(total[j], e, x[j], y[j], p)
                if kahan:
                    error[j] = e

    return compiled(matrices), compiled(vectors)
