"""The orders in which products are added: each a few lines, on any arithmetic.

``terms`` yields pairs of arrays that broadcast to the shape of the results: of a matrix product, a
column (m, 1) and a row (n); of t dot products, two arrays (t). Sums start from +0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from fp16sim.backend import Array

Terms: TypeAlias = Iterable[tuple[Array, Array]]


class Arithmetic(Protocol):
    """Operations that round once, write their results to ``out`` and return it."""

    def zeros(self) -> Array:
        """A new array for results: +0."""

    def multiply(self, x: Array, y: Array, out: Array) -> Array:
        """x y."""

    def add(self, x: Array, y: Array, out: Array) -> Array:
        """x + y."""

    def subtract(self, x: Array, y: Array, out: Array) -> Array:
        """x - y."""

    def fma(self, x: Array, y: Array, z: Array, out: Array) -> Array:
        """x y + z."""


def sequential(terms: Terms, calc: Arithmetic) -> Array:
    """s = s + x y, the product rounded and then the sum."""
    total, product = calc.zeros(), calc.zeros()
    for x, y in terms:
        calc.add(total, calc.multiply(x, y, out=product), out=total)
    return total


def fma(terms: Terms, calc: Arithmetic) -> Array:
    """s = x y + s, rounded once, as a fused multiply-add does."""
    total = calc.zeros()
    for x, y in terms:
        calc.fma(x, y, total, out=total)
    return total


def pairwise(terms: Terms, calc: Arithmetic) -> Array:
    """Neighbours are added, then neighbours of these sums; an odd one at the end goes up as it is.

    Like a binary counter: slot i holds the sum of 2^i products until its partner is made, so that
    log2(k) partial sums are kept instead of k.
    """
    slots: list[Array | None] = []
    spare: list[Array] = []
    for x, y in terms:
        total = calc.multiply(x, y, out=spare.pop() if spare else calc.zeros())
        for i, partner in enumerate(slots):
            if partner is None:
                slots[i] = total
                break
            slots[i] = None
            spare.append(total)
            total = calc.add(partner, total, out=partner)
        else:
            slots.append(total)
    total, *larger = [slot for slot in slots if slot is not None] or [calc.zeros()]
    for partner in larger:
        total = calc.add(partner, total, out=partner)
    return total


def kahan(terms: Terms, calc: Arithmetic) -> Array:
    """Each sum's rounding error is computed and taken from the next product.

    Source: Kahan, "Further remarks on reducing truncation errors", CACM 8(1), 1965.
    """
    total, error, term, before = (calc.zeros() for _ in range(4))
    for x, y in terms:
        calc.multiply(x, y, out=term)
        calc.subtract(term, error, out=term)
        before[...] = total
        calc.add(total, term, out=total)
        calc.subtract(total, before, out=error)
        calc.subtract(error, term, out=error)
    return total


ORDERS: dict[str, Callable[[Terms, Arithmetic], Array]] = {
    "sequential": sequential,
    "fma": fma,
    "pairwise": pairwise,
    "kahan": kahan,
}
