"""Arithmetic in float64 rounded *to odd*: what does not fit is remembered in the last bit.

A result that is not exact goes to that one of its two float64 neighbours whose last bit is one. So
it is never exactly a number, a midpoint or a border of a format with at most 51 bits unless the
true result is, and lies on the same side of all of them: rounding it to such a format, in any
mode, gives the true result correctly rounded. Source: Boldo and Melquiond, "Emulation of FMA and
correctly rounded sums: proved algorithms using rounding to odd", IEEE TC 57 (2008), theorem 1.

For finite operands only. Each function computes the nearest float64 and the sign of the error, by
the error-free transformations of Dekker (1971) and Knuth (TAOCP 2, 4.2.2), as in Muller et al.,
*Handbook of Floating-Point Arithmetic*, 2nd ed., chapter 4. They need room in the exponents: see
``has_room``.
"""

from __future__ import annotations

import numpy as np

from fp16sim.backend import Array

# Operands between 2^-250 and 2^250: no product, quotient or error term leaves the range where
# float64 has all its bits, whatever three of them are combined.
ROOM = 2.0**250


def has_room(x: Array) -> Array:
    """Which float64 values are zero, infinite, NaN, or far enough from both ends of the range."""
    magnitude = np.abs(x)
    ordinary = (magnitude >= 1 / ROOM) & (magnitude <= ROOM)
    room: Array = ordinary | (x == 0) | ~np.isfinite(x)
    return room


def to_odd(nearest: Array, error: Array) -> Array:
    """``nearest + error`` rounded to odd, where only the sign of the error counts.

    nearest: float64, the nearest to the true value; error: its sign, or zero if it is exact.
    """
    words = nearest.view(np.int64)
    outwards = (error > 0) == (nearest > 0)
    moves = (error != 0) & (words & 1 == 0) & ~np.isnan(nearest) & ~np.isnan(error)
    moves &= np.isfinite(nearest) | ~outwards  # from infinity only back
    # Away from zero is one more in the bit pattern, for either sign.
    moved = np.where(moves, words + np.where(outwards, 1, -1), words).view(np.float64)
    # The neighbours of zero, on either side.
    smallest = np.copysign(np.float64(5e-324), error)
    result: Array = np.where(moves & (nearest == 0), smallest, moved)
    return result


def two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """x + y, to nearest, and its exact error."""
    total = x + y
    of_y = total - x
    return total, (x - (total - of_y)) + (y - of_y)


def two_product(x: Array, y: Array) -> tuple[Array, Array]:
    """x y, to nearest, and its exact error."""
    product = x * y
    x_high, x_low = _split(x)
    y_high, y_low = _split(y)
    error = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    return product, error


def _split(x: Array) -> tuple[Array, Array]:
    """Two halves of at most 26 bits that make up x (Veltkamp)."""
    scaled = x * (2.0**27 + 1)
    high = scaled - (scaled - x)
    return high, x - high


def add(x: Array, y: Array) -> Array:
    """x + y."""
    return to_odd(*two_sum(x, y))


def multiply(x: Array, y: Array) -> Array:
    """x y."""
    return to_odd(*two_product(x, y))


def divide(x: Array, y: Array) -> Array:
    """x / y."""
    quotient = x / y
    product, error = two_product(quotient, y)
    rest = (x - product) - error  # exact up to its last rounding, which keeps the sign
    return to_odd(quotient, rest * np.sign(y))


def sqrt(x: Array) -> Array:
    """The square root."""
    root = np.sqrt(x)
    square, error = two_product(root, root)
    return to_odd(root, (x - square) - error)


def fma(x: Array, y: Array, z: Array) -> Array:
    """x y + z, as the sum of the product's two parts and z, the small parts rounded to odd.

    Rounding a sum to odd after one of its parts was rounded to odd is the same as rounding the
    whole to odd, as long as that part is small: the theorem above with more bits.
    """
    product, low = two_product(x, y)
    partial, rest = two_sum(z, low)
    total, carry = two_sum(product, partial)
    # total + carry + rest, and |carry + rest| is at most about an ulp of total.
    return add(total, add(carry, rest))
