"""Checks that functions round, and compute, as IEEE 754 says: what they get wrong, and how.

The expected results are those of ``fp16sim.round_to`` and ``fp16sim.arith``. Results must be equal
bit for bit, except that any NaN equals any NaN. Needs no Hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fp16sim.arguments import integer, one_of
from fp16sim.backend import Array, carrier_of
from fp16sim.formats import FormatLike, format_of
from fp16sim.kernels.reference import GOES_UP
from fp16sim.rounding import round_to
from fp16sim.testing import inputs, operations, report
from fp16sim.testing.report import Report
from fp16sim.testing.trial import Progress, Trial

#: modes that can be checked: all without chance
MODES = tuple(GOES_UP)


def check_rounding(
    function: Callable[..., Any],
    fmt: FormatLike,
    mode: str = "ties_to_even",
    *,
    source: FormatLike = "fp32",
    saturate: bool = False,
    subnormals: bool = True,
    ignore_sign_of_zero: bool = False,
    exhaustive: bool | None = None,
    random_inputs: int = 1_000_000,
    seed: int = 0,
    max_failures: int = 5,
    vectorized: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Check that a function rounds numbers of ``source`` to numbers of ``fmt``.

    function: takes a one-dimensional array of numbers of ``source``, float32 (float64 if source
        is "fp64" or does not fit float32), and returns their roundings as an array of that shape:
        float16, float32, float64 or a type of ml_dtypes. With vectorized=False it takes a Python
        float and returns a number.
    fmt, mode, saturate, subnormals: as for ``round_to``; every mode but "stochastic".
    ignore_sign_of_zero: whether +0 and -0 are the same.
    exhaustive: True tries every number of the source, of up to 32 bits (for fp32 all 2^32 bit
        patterns: minutes). False tries those that are hard to round, with signalling NaNs and
        ``random_inputs`` random bit patterns from ``seed``; see ``inputs.hard_inputs``. None tries
        all of sources of up to 16 bits, and the hard ones of others. NaN is not tried for formats
        that have none: every convention for it is as good.
    max_failures: how many failures of each class the report keeps. The smallest is looked for
        beside the smallest one found, too, unless all inputs are tried.
    progress: called as ``progress(done, total)`` now and then.

    Returns a ``Report`` of what was tried. Raises ConformanceError, with the report as ``.report``,
    if a result is wrong, or if the function raises or returns anything else; its message has for
    each class of failure the count and the smallest input. Raises ValueError and TypeError for
    arguments that make no sense. NumPy's floating-point warnings are off while the function runs.

    Example::

        check_rounding(lambda x: x.astype(np.float16), "fp16")
    """
    fmt, source = format_of(fmt), format_of(source, "source")
    one_of("mode", mode, MODES)
    count = integer("random_inputs", random_inputs, at_least=0)
    seed = integer("seed", seed, at_least=0)
    kept = integer("max_failures", max_failures, at_least=1)
    complete = source.bits <= inputs.SMALL if exhaustive is None else bool(exhaustive)

    def expected(x: Array) -> Array:
        result: Array = round_to(x, fmt, mode, saturate=saturate, subnormals=subnormals)
        return result

    expected(np.ones(1, carrier_of(source)))  # refuses formats that the carrier does not hold

    def sides(x: Array) -> tuple[Array, report.Sides]:
        exact = x.astype(np.float64)
        return exact, report.sides_of(exact, fmt)

    if complete:
        tried, total = inputs.every_input(source), inputs.count_of_every_input(source)
    else:
        selected = inputs.hard_inputs(fmt, source, count, seed)
        tried, total = inputs.chunks(selected), selected.size
    trial = Trial(
        Report(f"{_name_of(function)} rounds {source} to {fmt}, {mode}", exhaustive=complete),
        function if vectorized else _looped(function),
        expected,
        sides,
        source,
        fmt,
        bool(ignore_sign_of_zero),
        kept,
    )
    return trial.run(((part,) for part in tried), total, progress)


def check_arithmetic(
    function: Callable[..., Any],
    operation: str,
    fmt: FormatLike,
    mode: str = "ties_to_even",
    *,
    saturate: bool = False,
    subnormals: bool = True,
    ignore_sign_of_zero: bool = False,
    random_inputs: int = 200_000,
    seed: int = 0,
    max_failures: int = 5,
    vectorized: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Check that a function computes an operation on numbers of ``fmt``, rounding once to ``fmt``.

    function: takes one, two or three one-dimensional arrays of numbers of the format, float32 (or
        float64 if the format does not fit float32), and returns an array of that shape: float16,
        float32, float64 or a type of ml_dtypes. With vectorized=False it takes Python floats and
        returns a number.
    operation: "add", "subtract", "multiply", "divide", "remainder" or "fma"; "sqrt", "rint",
        "exp", "exp2", "expm1", "log", "log2", "log1p", "sin", "cos", "tanh", "erf", "rsqrt",
        "reciprocal", "sigmoid", "softplus", "silu", "gelu" or "gelu_tanh": those of
        ``fp16sim.arith``.

    All tuples of operands are tried that have 18 bits or fewer together: all fp16 numbers, all
    pairs of 8-bit numbers, all triples of 6-bit ones. Otherwise edges of the format with each
    other, and ``random_inputs`` tuples from ``seed``, half of them related: see
    ``operations.operands_of``. The other arguments, the result and the errors are those of
    ``check_rounding``.

    Example::

        check_arithmetic(lambda x, y: np.float16(x) + np.float16(y), "add", "fp16")
    """
    fmt = format_of(fmt)
    one_of("operation", operation, operations.OPERATIONS)
    one_of("mode", mode, MODES)
    count = integer("random_inputs", random_inputs, at_least=0)
    seed = integer("seed", seed, at_least=0)
    kept = integer("max_failures", max_failures, at_least=1)
    correct, arity = operations.correct(operation), operations.OPERATIONS[operation]

    def expected(*operands: Array) -> Array:
        result: Array = correct(*operands, fmt, mode, saturate=saturate, subnormals=subnormals)
        return result

    tried = operations.operands_of(fmt, arity, count, seed)
    trial = Trial(
        Report(
            f"{_name_of(function)} computes {operation} in {fmt}, {mode}",
            exhaustive=operations.takes_all(fmt, arity),
        ),
        function if vectorized else _looped(function),
        expected,
        lambda *operands: operations.exact_and_sides(operation, operands, fmt),
        fmt,
        fmt,
        bool(ignore_sign_of_zero),
        kept,
    )
    parts = zip(*(inputs.chunks(operand) for operand in tried), strict=True)
    return trial.run(parts, tried[0].size, progress)


def _looped(function: Callable[..., Any]) -> Callable[..., Array]:
    """A function of Python floats as one of arrays."""

    def loop(*operands: Array) -> Array:
        items = zip(*(x.tolist() for x in operands), strict=True)
        return np.array([float(function(*item)) for item in items], np.float64)

    return loop


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
