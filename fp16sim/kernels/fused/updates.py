"""Launchers for optimisers and the loss scale: CuPy arrays are changed in place, all on the GPU.

Device scalars are arrays of one value: ``step``, ``streak``, ``borne`` and ``found`` int32, the
scale and its inverse fp32. A step is skipped by the GPU itself where ``found`` is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from fp16sim.backend import Array, address
from fp16sim.kernels.fused import gpu, steps


class Table(NamedTuple):
    """Parameters for one launch, as ``table`` makes it; it holds on to their arrays."""

    tensors: Array
    chunks: Array
    #: of gradients that are not fp32, and of copies of weights
    dtype: str
    arrays: tuple[Any, ...]


def table(
    gradients: Sequence[Array],
    weights: Sequence[Array] = (),
    first: Sequence[Array] = (),
    second: Sequence[Array] = (),
    copies: Sequence[Array | None] = (),
) -> Table:
    """Parameters to be moved together; sequences as long as ``gradients``, or empty if not needed.

    gradients: fp32, or fp16 or bf16, but not both of these. weights and moments: fp32. copies: of
    the weights, of the 16-bit type, or None. All are of their gradient's size, and C-contiguous.
    """
    narrow = {gpu.type_of(x) for x in (*gradients, *(c for c in copies if c is not None))}
    narrow -= {"float32"}
    if len(narrow) > 1:
        raise TypeError(f"16-bit arrays of a table must be of one type, got {sorted(narrow)}")
    lines, chunks = [], []
    for i, gradient in enumerate(gradients):
        arrays = [s[i] if len(s) else None for s in (weights, first, second, copies)]
        for x in (gradient, *arrays):
            if x is not None and (x.size != gradient.size or not x.flags.c_contiguous):
                raise ValueError(f"arrays of parameter {i} must be contiguous and of one size")
        if any(x is not None and x.dtype != np.float32 for x in arrays[:3]):
            raise TypeError(f"weight and moments of parameter {i} must be fp32")
        if arrays[3] is not None and gpu.type_of(arrays[3]) == "float32":
            raise TypeError(f"the copy of parameter {i} must be of a 16-bit type")
        places = [0 if x is None else address(x) for x in (gradient, *arrays)]
        lines.append([*places, gradient.size, int(gradient.dtype == np.float32)])
        chunks += [[i, start] for start in range(0, gradient.size, steps.CHUNK)]
    tensors, parts = (
        cupy.asarray(np.array(part, np.int64).reshape(-1, n))
        for part, n in ((lines, 7), (chunks, 2))
    )
    kept = (*gradients, *weights, *first, *second, *copies)
    return Table(tensors, parts, narrow.pop() if narrow else "float16", kept)


def _launch(name: str, parameters: Table, *arguments: Any) -> None:
    if blocks := len(parameters.chunks):
        function = gpu.kernel(name, steps.kernels(), G=parameters.dtype)
        function((blocks,), (512,), (parameters.tensors, parameters.chunks, *arguments))


def _alone(name: str, *arguments: Any) -> None:
    gpu.kernel(name, steps.kernels(), G="float16")((1,), (1,), arguments)


def _optional(x: Array | None) -> Any:
    return gpu.ADDRESS_OF_NOTHING if x is None else x


def find_nonfinite(parameters: Table, found: Array) -> None:
    """Set ``found`` to 1 if a gradient is infinite or NaN, and leave it as it is otherwise."""
    _launch("find", parameters, found)


def count_step(
    step: Array,
    corrections: Array,
    found: Array | None,
    lr: float,
    betas: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Add 1 to ``step``, and fill fp32 corrections (2,) as ``adam`` needs them."""
    numbers = (np.float64(number) for number in (lr, *betas))
    _alone("count", step, corrections, _optional(found), *numbers)


def adam(
    parameters: Table,
    corrections: Array,
    inverse: Array | None,
    found: Array | None,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """One step of ``optim.Adam``, or of AdamW if decoupled, after ``count_step``.

    inverse: what gradients are multiplied by, one over the loss scale; None: 1.
    """
    beta1, beta2 = betas
    decay, shrinkage = (0.0, lr * weight_decay) if decoupled else (weight_decay, 0.0)
    numbers = (beta1, 1 - beta1, beta2, 1 - beta2, eps, decay, shrinkage)
    scalars = (_optional(inverse), _optional(found), corrections)
    _launch("adam", parameters, *scalars, *map(np.float32, numbers))


def sgd(
    parameters: Table,
    step: Array,
    inverse: Array | None,
    found: Array | None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """One step of ``optim.SGD``, after ``count_step``; momentum is the table's first moment."""
    numbers = map(np.float32, (lr, momentum, weight_decay))
    scalars = (_optional(inverse), _optional(found), step)
    _launch("sgd", parameters, *scalars, *numbers, np.bool_(nesterov))


def move_scale(
    scale: Array,
    inverse: Array,
    streak: Array,
    borne: Array,
    found: Array,
    *,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
    hysteresis: int = 1,
    min_scale: float | None = None,
    max_scale: float | None = None,
) -> None:
    """``scaling.next_scale`` on the GPU, and one over the scale; ``found`` stays as it is."""
    limits = (0.0 if min_scale is None else min_scale, math.inf if max_scale is None else max_scale)
    factors = map(np.float64, (growth_factor, backoff_factor))
    counts = map(np.int32, (growth_interval, hysteresis))
    _alone("move_scale", scale, inverse, streak, borne, found, *factors, *counts,
           *map(np.float64, limits))  # fmt: skip
