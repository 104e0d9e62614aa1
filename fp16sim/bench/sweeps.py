"""Matrix products and elementwise passes over sizes: what the device gives, and where it ends.

FLOP/s and bytes/s are of the least that an operation must do: 2n³ operations and 3n² numbers moved
for an n x n product, each operand read once and each result written once. Intensity is the one over
the other; achieved FLOP/s over intensity is the roofline of Williams, Waterman and Patterson,
"Roofline: an insightful visual performance model for multicore architectures" (2009). Its ceilings
are not a data sheet's: they are the best that this run has measured.

Numbers are N(0, 1): a GPU draws less power on zeros, and clocks higher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fp16sim.accumulate import matmul
from fp16sim.arguments import one_of
from fp16sim.backend import DEVICES, Array, namespace_of, to_device
from fp16sim.bench.clock import Timing, rotated, time_call
from fp16sim.bench.device import cache_bytes, free_bytes
from fp16sim.bench.plan import LeftOut, Plan
from fp16sim.formats import FP16
from fp16sim.rounding import round_to

#: what numbers of a sweep are, by device: NumPy multiplies float16 without BLAS, some thousand
#: times slower, so that fp16 is emulated there
DTYPES = {
    "cpu": ("fp32", "fp64", "fp16, emulated"),
    "cuda": ("fp16", "bf16", "tf32", "fp32", "fp64"),
}

_NUMPY = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}
_MOST_SETS = 1024


@dataclass(frozen=True)
class SweepRow:
    """One operation in one dtype at one size."""

    #: "gemm", "copy", "add", "tanh" or "round to fp16"
    operation: str
    #: one of ``DTYPES``
    dtype: str
    #: n of an n x n by n x n product; numbers in an elementwise pass
    size: int
    #: arithmetic operations, a tanh counted as one, and bytes moved, of a call
    flop: int
    bytes: int
    timing: Timing

    @property
    def tflops(self) -> float:
        """10^12 operations a second."""
        return self.flop / self.timing.median / 1e12

    @property
    def gbs(self) -> float:
        """10^9 bytes a second."""
        return self.bytes / self.timing.median / 1e9

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flop / self.bytes


@dataclass(frozen=True)
class Ceilings:
    """The best that a sweep has seen."""

    #: 10^12 operations a second of products, by dtype
    tflops: dict[str, float]
    #: 10^9 bytes a second of elementwise passes over more than the caches hold; 0 if there is none
    gbs: float


def ceilings(rows: Iterable[SweepRow], cache: int = 0) -> Ceilings:
    """The largest FLOP/s by dtype, and the largest bytes/s of passes that move over ``cache`` bytes
    (of any, if all move less).
    """
    rows = tuple(rows)
    tflops: dict[str, float] = {}
    for row in rows:
        if row.operation == "gemm":
            tflops[row.dtype] = max(row.tflops, tflops.get(row.dtype, 0.0))
    passes = [row for row in rows if row.operation != "gemm"]
    large = [row for row in passes if row.bytes > cache]
    return Ceilings(tflops, max((row.gbs for row in large or passes), default=0.0))


def share_of(row: SweepRow, best: Ceilings) -> float:
    """What a product reaches of its dtype's best FLOP/s, and a pass of the best bytes/s.

    Passes that find their numbers in a cache reach more than 1.
    """
    return row.tflops / best.tflops[row.dtype] if row.operation == "gemm" else row.gbs / best.gbs


def gemm(device: str, plan: Plan, dtype: str) -> tuple[SweepRow, ...]:
    """n x n products in one of ``DTYPES``, n = 16 or 32 and on by factors of two."""
    small, large = (4, 10) if device == "cpu" else (5, 14)
    large = min(large, 7) if plan.fast else large
    rows = []
    with _compute_type(device, dtype):
        for n in (2**power for power in range(small, large + 1)):
            if not _fit(device, 6 * 8 * n * n):
                break
            operands = _operands(device, dtype, (n, n), 3, _cache(device, plan))
            call = rotated(_product(device, dtype), operands)
            timing = time_call(call, device, repeats=plan.repeats, seconds=plan.seconds)
            moved = 3 * n * n * operands[0][0].dtype.itemsize
            rows.append(SweepRow("gemm", dtype, n, 2 * n**3, moved, timing))
    return tuple(rows)


def elementwise(device: str, plan: Plan, dtype: str) -> tuple[SweepRow, ...]:
    """Passes over 2^10 numbers and on by factors of four."""
    large = 14 if plan.fast else 24 if device == "cpu" else 28
    rows = []
    for count in (2**power for power in range(10, large + 1, 2)):
        if not _fit(device, 6 * 8 * count):
            break
        operands = _operands(device, dtype, (count,), 3, _cache(device, plan))
        itemsize = operands[0][0].dtype.itemsize
        for name, (function, flop, arrays) in _passes(operands[0][0], dtype).items():
            timing = time_call(
                rotated(function, operands), device, repeats=plan.repeats, seconds=plan.seconds
            )
            rows.append(
                SweepRow(name, dtype, count, flop * count, arrays * count * itemsize, timing)
            )
    return tuple(rows)


def sweep(device: str, plan: Plan, dtype: str) -> tuple[tuple[SweepRow, ...], tuple[LeftOut, ...]]:
    """Both sweeps in one dtype, and what there is none of, and why."""
    one_of("dtype", dtype, DTYPES[one_of("device", device, DEVICES)])
    rows: tuple[SweepRow, ...] = ()
    left_out: list[LeftOut] = []
    # In tf32 only products are made: memory holds fp32.
    for what in (gemm, elementwise) if dtype != "tf32" else (gemm,):
        try:
            rows += what(device, plan, dtype)
        except Exception as error:
            if device == "cpu" or dtype not in ("bf16", "tf32"):
                raise
            reason = f"this CuPy does not offer it ({type(error).__name__}: {error})"
            left_out.append(LeftOut(f"sweep, {dtype}, {what.__name__}", reason))
    return rows, tuple(left_out)


def _passes(like: Array, dtype: str) -> dict[str, tuple[Callable[..., object], int, int]]:
    """By name: a function of two inputs and an output, its operations and arrays moved a number."""
    xp: Any = namespace_of(like)
    if "emulated" in dtype:
        return {"round to fp16": (lambda a, b, out: round_to(a, FP16), 0, 2)}
    return {
        "copy": (lambda a, b, out: xp.copyto(out, a), 0, 2),
        "add": (lambda a, b, out: xp.add(a, b, out=out), 1, 3),
        "tanh": (lambda a, b, out: xp.tanh(a, out=out), 1, 2),
    }


def _product(device: str, dtype: str) -> Callable[..., object]:
    if "emulated" in dtype:
        return lambda a, b, out: matmul(a, b, fmt=FP16, accumulator="fp32", out=out)
    return lambda a, b, out: namespace_of(a).matmul(a, b, out=out)


def _fit(device: str, needed: int) -> bool:
    """Whether two sets of inputs take no more than half of the memory that is free."""
    free = free_bytes(device)
    return free is None or needed <= free // 2


def _cache(device: str, plan: Plan) -> int:
    """What inputs must be larger than; little where all is to be fast, and little is said."""
    return 2**20 if plan.fast else cache_bytes(device)


def _operands(
    device: str, dtype: str, shape: tuple[int, ...], count: int, cache: int
) -> Sequence[tuple[Array, ...]]:
    """Sets of so many arrays, together twice the size of a cache, as far as a thousand are."""
    block = np.random.default_rng(0).standard_normal(2**16, np.float32)
    name = dtype.partition(",")[0]
    carrier = "fp32" if "emulated" in dtype or name == "tf32" else name
    size = int(np.prod(shape))
    values = to_device(np.resize(block, shape), device).astype(_dtype(carrier))
    sets = 2 * cache // (count * size * values.dtype.itemsize)
    sets = min(max(sets, 2), _MOST_SETS)
    return [tuple(values.copy() for _ in range(count)) for _ in range(sets)]


def _dtype(name: str) -> Any:
    if name != "bf16":
        return np.dtype(_NUMPY[name])
    import ml_dtypes  # which CuPy 14 takes its bfloat16 from

    return np.dtype(ml_dtypes.bfloat16)


class _compute_type:  # noqa: N801 - used like a function
    """TF32 on or off for CuPy's fp32 products, which has no public switch but an environment
    variable that is read once (CUPY_TF32).
    """

    def __init__(self, device: str, dtype: str) -> None:
        self.wanted = device == "cuda" and dtype == "tf32"

    def __enter__(self) -> None:
        if self.wanted:
            from cupy._core import _routines_linalg as routines

            self.routines = routines
            self.before = routines.get_compute_type(np.dtype(np.float32))
            routines.set_compute_type(np.dtype(np.float32), routines.COMPUTE_TYPE_TF32)

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            self.routines.set_compute_type(np.dtype(np.float32), self.before)
