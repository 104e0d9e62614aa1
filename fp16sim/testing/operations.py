"""Operations by name: their correct results, and operands that are hard for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fp16sim import arith
from fp16sim.backend import Array, carrier_of
from fp16sim.formats import Format
from fp16sim.rounding import round_to
from fp16sim.testing import inputs, report

_UNARY = """
    sqrt rint exp exp2 expm1 log log2 log1p sin cos tanh erf
    rsqrt reciprocal sigmoid softplus silu gelu gelu_tanh
"""
_BINARY = "add subtract multiply divide remainder"
#: names and numbers of operands
OPERATIONS = dict.fromkeys(_BINARY.split(), 2) | {"fma": 3} | dict.fromkeys(_UNARY.split(), 1)

#: all tuples of operands are tried if they have so many bits together
ALL_TUPLES = 18


def correct(operation: str) -> Callable[..., Any]:
    """The function of ``arith``: takes operands, format, mode and the keywords of ``round_to``."""
    if operation == "gelu_tanh":
        return partial(arith.gelu, approximate="tanh")
    function: Callable[..., Any] = getattr(arith, operation)
    return function


def exact_and_sides(
    operation: str, operands: tuple[Array, ...], fmt: Format
) -> tuple[Array, report.Sides]:
    """The exact results, or what is on their side of all numbers and midpoints; and neighbours.

    Rounded to odd with three bits more than the format's, a result is a number or a midpoint of
    the format only if it is exactly that.
    """
    if operation == "rint":  # its neighbours are integers
        x = operands[0].astype(np.float64)
        return x, (np.floor(x), np.ceil(x))
    precision = min(fmt.precision + 3, 53)
    wide = replace(fmt, name="wide", precision=precision, infinities=True, nans=True)
    wide_operands = [x.astype(np.float64) for x in operands]
    exact = np.asarray(correct(operation)(*wide_operands, wide, "to_odd"), np.float64)
    return exact, report.sides_of(exact, fmt)


def takes_all(fmt: Format, count: int) -> bool:
    """Whether ``operands_of`` gives all there are."""
    return fmt.bits * count <= ALL_TUPLES


def operands_of(fmt: Format, count: int, random_inputs: int, seed: int) -> tuple[Array, ...]:
    """``count`` arrays of numbers of the format: all tuples if the format is small.

    Otherwise all tuples of the format's edges; random ones, of which a half are related: few bits,
    which makes ties, and exponents so that sums cancel, or products and quotients are at the
    borders of the format.
    """
    if takes_all(fmt, count):
        return _product(np.concatenate(list(inputs.every_input(fmt))), count)
    rng = np.random.default_rng(seed)
    edges = np.array([*inputs.edges_of(fmt), *[np.nan] * fmt.nans], carrier_of(fmt))
    plain = random_inputs - random_inputs // 2
    unrelated = [inputs.random_numbers(fmt, fmt, plain, rng) for _ in range(count)]
    related = _related(fmt, count, random_inputs // 2, rng)
    parts = zip(_product(edges, count), unrelated, related, strict=True)
    return tuple(np.concatenate(part) for part in parts)


def _product(numbers: Array, count: int) -> tuple[Array, ...]:
    """All tuples of the numbers, as ``count`` arrays."""
    return tuple(grid.ravel() for grid in np.meshgrid(*[numbers] * count, indexing="ij"))


def _related(fmt: Format, count: int, size: int, rng: np.random.Generator) -> list[Array]:
    """Random operands that have something to do with each other."""
    p = fmt.precision
    first = rng.integers(fmt.emin - p, fmt.emax + 1, size)
    border = np.where(
        rng.random(size) < 0.5,
        rng.integers(fmt.emin - p - 2, fmt.emin + 2, size),
        rng.integers(fmt.emax - 2, fmt.emax + 2, size),
    )
    near = first + rng.integers(-p - 2, p + 3, size)
    second = np.choose(rng.integers(0, 4, size), [near, first, border - first, first - border])
    x, y = (_few_bits(exponent, fmt, rng) for exponent in (first, second))
    # A quarter of the second operands are the first or its neighbours, a half of these negative.
    with np.errstate(all="ignore"):
        close = _snap(x * (1 + rng.integers(-2, 3, size) * fmt.eps) * _signs(size, fmt, rng), fmt)
        y = np.where(rng.random(size) < 0.25, close, y)
        scale = np.choose(rng.integers(0, 3, size), [0, -p, p]) + rng.integers(-1, 2, size)
        product = x.astype(np.float64) * y
        cancel = _snap(np.ldexp(product, scale * rng.integers(0, 2, size)), fmt)
        cancel = np.where(rng.random(size) < 0.5, -cancel if fmt.signed else cancel, cancel)
    few = _few_bits(np.clip(first + second, fmt.emin - p, fmt.emax), fmt, rng)
    z = np.where(rng.random(size) < 0.5, cancel, few)
    return [x, y, z][:count]


def _few_bits(exponents: Array, fmt: Format, rng: np.random.Generator) -> Array:
    """Random numbers with about these exponents, and significands of 1 to p bits, any as likely."""
    size, exponents = exponents.size, np.clip(exponents, fmt.emin - fmt.precision, fmt.emax)
    kept = rng.integers(1, fmt.precision + 1, size)
    significands = rng.integers(0, 1 << (kept - 1), size) + (np.int64(1) << (kept - 1))
    values = np.ldexp(significands.astype(np.float64), exponents - kept + 1)
    return _snap(values * _signs(size, fmt, rng), fmt)


def _signs(size: int, fmt: Format, rng: np.random.Generator) -> Array:
    return rng.choice([-1.0, 1.0], size) if fmt.signed else np.ones(size)


def _snap(values: Array, fmt: Format) -> Array:
    """Finite values made numbers of the format, in the dtype that carries it."""
    kept = np.where(np.isnan(values), 1.0, values)
    numbers: Array = round_to(kept, fmt, "toward_zero", saturate=True).astype(carrier_of(fmt))
    return numbers
