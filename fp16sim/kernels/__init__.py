"""Rounding loops: one meaning (``reference``), three executors with identical bits.

``cpu`` is plain NumPy, ``compiled`` the same in one pass through Numba, if that is installed, and
``gpu`` the same for CuPy arrays.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np

from fp16sim.backend import Array, carried, is_on_gpu, namespace_of
from fp16sim.kernels import cpu
from fp16sim.kernels.fused.source import STORAGE

# Loading Numba takes about as long as NumPy takes to round this many values.
WORTH_LOADING = 2**20


def product(x: Array, y: Array, out: Array | None = None, *, onto: bool = False) -> Array:
    """x @ y added up in fp32, or in fp64; what is kept in 16 bits is read as it is.

    The sums come back as float32 (float64), not rounded yet; or in ``out``, if that is given,
    rounded once to its dtype. onto: added, before that, to what is in out. The order is BLAS's.
    """
    if namespace_of(x) is np:
        x, y = carried(x), carried(y)
        if out is None or onto or out.dtype != x.dtype:
            return written(np.matmul(x, y), out, onto)
        result: Array = np.matmul(x, y, out=out)
        return result
    of_gpu: Array = importlib.import_module("fp16sim.kernels.gemm").product(x, y, out, onto=onto)
    return of_gpu


def written(sums: Array, out: Array | None, onto: bool) -> Array:
    """Sums as they are; or in ``out``, with what is there added or not, rounded once."""
    if out is None:
        return sums
    with np.errstate(all="ignore"):
        out[...] = sums + carried(out) if onto else sums
    return out


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """float32 or 16-bit values in another such dtype, rounded to nearest even."""
    if not is_on_gpu(x):
        return x.astype(dtype)
    of_gpu: Array = importlib.import_module("fp16sim.kernels.fused.gpu").cast(x, dtype)
    return of_gpu


def add(x: Array, y: Array) -> Array:
    """x + y of one shape, in their dtype if that is one; on a GPU in one pass over both."""
    if not is_on_gpu(x) or x.dtype != y.dtype or x.dtype.name not in STORAGE:
        total: Array = x + y
        return total
    of_gpu: Array = importlib.import_module("fp16sim.kernels.fused.gpu").add(x, y)
    return of_gpu


def executor_for(x: Array) -> ModuleType:
    """The module whose ``round_array`` rounds this array: where it is, and as fast as can be."""
    if namespace_of(x).__name__ == "cupy":
        return importlib.import_module("fp16sim.kernels.gpu")
    return compiled_if_worth(x.size / WORTH_LOADING) or cpu


def compiled_if_worth(work: float, room: str = "") -> ModuleType | None:
    """The module of compiled kernels in that room, if there is Numba and it is loaded, or worth it.

    work: what there is to do, over what NumPy does in the time that loading takes.
    """
    loaded = "fp16sim.kernels.compiled" in sys.modules
    if loaded or (work >= 1 and importlib.util.find_spec("numba") is not None):
        return importlib.import_module(f"fp16sim.kernels{room}.compiled")
    return None
