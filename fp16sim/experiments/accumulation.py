"""How wrong a dot product of fp16 numbers is, by its accumulator and its length.

Three kinds of factors. *Positive*: uniform in [1/16, 1/4), so that the sum grows steadily. *Zero
mean*: normal, so that it wanders like sqrt(n). *Ones*: every product is 1, and a sum in fp16 stops
at 2048, since 2048 + 1 is halfway to the next fp16 number and goes back to the even one.

Errors are those of the accumulator itself, before its result is rounded to fp16, in units in the
last place that fp16 would have at the exact result: 0.5 is what rounding the exact sum costs.

Classical theory bounds the error of n additions by n u sum |x y|, with u half of a format's eps;
roundings that are independent and unbiased give a multiple of sqrt(n) u sum |x y| instead. Sources:
Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed. (2002), section 3.1; Higham and
Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41 (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from fp16sim import accumulate, tensorcore
from fp16sim.accumulate import Accumulator, AccumulatorLike
from fp16sim.arguments import integer
from fp16sim.backend import Array
from fp16sim.experiments.spread import spread
from fp16sim.formats import FP16, FP32, Format

#: what is compared, by the name that tables and figures show
ACCUMULATORS: dict[str, AccumulatorLike] = {
    "fp16": "fp16",
    "fp16, fused": "fp16-fma",
    "fp16, pairwise": "fp16-pairwise",
    "fp16, Kahan": "fp16-kahan",
    "fp16 in blocks of 16": Accumulator("sequential", FP16, block=16),
    "V100": tensorcore.V100,
    "A100": tensorcore.A100,
    "H100": tensorcore.H100,
    "fp32": "fp32-sequential",
}

KINDS = {
    "positive": "positive factors",
    "zero mean": "factors of zero mean",
    "ones": "ones",
}

# More bits than any accumulator has, few enough to be exact quickly.
_REFERENCE = Format(name="reference", precision=50, emin=-800, emax=800)


@dataclass(frozen=True)
class Accumulation:
    """Errors in ulps of fp16: medians over the trials, by kind, accumulator and length.

    Infinite where the accumulator overflowed.
    """

    lengths: list[int]
    trials: int
    seed: int
    errors: dict[str, dict[str, list[float]]]
    #: by kind and format (fp16, fp32), u sum |x y| at each length: times n or sqrt(n), the bounds
    unit_errors: dict[str, dict[str, list[float]]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what overflowed as None, since JSON has no infinity."""
        record = asdict(self)
        for rows in record["errors"].values():
            for name, row in rows.items():
                rows[name] = [value if np.isfinite(value) else None for value in row]
        return record


def accumulation(
    longest: int = 20,
    trials: int = 8,
    seed: int = 0,
    *,
    executor: Executor | None = None,
    on_result: Callable[[str], None] = lambda name: None,
) -> Accumulation:
    """Measure dot products of lengths 2^4, 2^6 ... up to 2^longest.

    trials: how many of the random kinds. executor: runs the accumulators side by side if given.
    on_result: called with the name of each accumulator when it is done.
    Raises TypeError or ValueError for longest outside of 4..24 or trials below 1.
    """
    integer("longest", longest, at_least=4, at_most=24)
    integer("trials", trials, at_least=1)
    integer("seed", seed, at_least=0)
    lengths = [2**i for i in range(4, longest + 1) if i % 2 == longest % 2 or i == 4]
    one = partial(_errors, lengths=lengths, trials=trials, seed=seed)
    results = spread(
        one, list(ACCUMULATORS), executor=executor, on_result=lambda name, _: on_result(name)
    )
    errors = {kind: {name: results[name][kind] for name in ACCUMULATORS} for kind in KINDS}
    return Accumulation(lengths, trials, seed, errors, _unit_errors(lengths, trials, seed))


def factors(length: int, trials: int, seed: int) -> tuple[Array, Array, dict[str, slice]]:
    """Rows of fp16 factors x and y, float32, and which rows are of which kind."""
    rng = np.random.default_rng((seed, length))
    shape = (trials, length)
    x = [rng.uniform(1 / 16, 1 / 4, shape), rng.standard_normal(shape), np.ones((1, length))]
    y = [rng.uniform(1 / 16, 1 / 4, shape), rng.standard_normal(shape), np.ones((1, length))]
    rows = (slice(0, trials), slice(trials, 2 * trials), slice(2 * trials, None))
    left, right = (np.concatenate(p).astype(np.float16).astype(np.float32) for p in (x, y))
    return left, right, dict(zip(KINDS, rows, strict=True))


def _errors(name: str, *, lengths: Sequence[int], trials: int, seed: int) -> dict[str, list[float]]:
    """One accumulator's median errors in ulps of fp16, by kind."""
    medians: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for length in lengths:
        x, y, rows = factors(length, trials, seed)
        exact = accumulate.dot(x, y, fmt=_REFERENCE, accumulator="exact")
        got = _dots(x, y, ACCUMULATORS[name])
        error = np.where(np.isfinite(got), np.abs(got - exact), np.inf) / _ulp(exact)
        for kind, part in rows.items():
            medians[kind].append(float(np.median(error[part])))
    return medians


def _dots(x: Array, y: Array, accumulator: AccumulatorLike) -> Array:
    """Dot products as the accumulator holds them."""
    if isinstance(accumulator, tensorcore.Unit):
        sums = np.empty(len(x), np.float32)
        return accumulator.add_up(x, y, sums, FP16).astype(np.float64)
    result: Array = accumulate.dot(x, y, fmt=FP32, accumulator=accumulator).astype(np.float64)
    return result


def _ulp(exact: Array) -> Array:
    """The spacing of fp16 around a number, were its exponents without limits."""
    spacing: Array = np.ldexp(1.0, np.frexp(exact)[1] - FP16.precision)
    return spacing


def _unit_errors(
    lengths: Sequence[int], trials: int, seed: int
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {
        kind: {fmt.name: [] for fmt in (FP16, FP32)} for kind in KINDS
    }
    for length in lengths:
        x, y, rows = factors(length, trials, seed)
        exact = accumulate.dot(x, y, fmt=_REFERENCE, accumulator="exact")
        size = (np.abs(x).astype(np.float64) * np.abs(y)).sum(axis=1) / _ulp(exact)
        for kind, part in rows.items():
            for fmt in (FP16, FP32):
                found[kind][fmt.name].append(float(np.median(size[part]) * fmt.eps / 2))
    return found
