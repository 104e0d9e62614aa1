"""Sums, dot products and matrix products that add as they are told to.

What a matrix product in half precision returns depends on how it adds: in which format, in which
order, rounding how often. That is its *accumulator*, here an argument:

===================  ==============================================================================
``"fp32"``           in fp32, in whatever order BLAS finds fastest (``"fp64"`` likewise)
``"fp16"``           every product rounded to fp16, then every sum, in order; and so for the name of
                     any other format, or a ``Format``
``"fp32-sequential"``  the same in fp32
``"fp16-fma"``       x y + s rounded once, in order
``"fp16-pairwise"``  products rounded; neighbours added, then neighbours of these sums
``"fp16-kahan"``     in order, with Kahan's compensation
``"exact"``          no rounding but the last: correctly rounded
a matrix unit        as hardware adds: ``fs.tensorcore.H100`` and its like
===================  ==============================================================================

Without a format, ``"pairwise"``, ``"kahan"``, ``"fma"`` and ``"sequential"`` use the result's.
``block=16`` adds like this inside blocks of 16 products, and the blocks' sums in fp32, in order.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.accumulate.accumulator import (
    Accumulator,
    AccumulatorLike,
    MatrixUnit,
    accumulator_of,
)
from fp16sim.accumulate.compute import Task, multiplier
from fp16sim.arguments import integer
from fp16sim.backend import Array, carrier_of, namespace_of
from fp16sim.formats import FP16, FormatLike
from fp16sim.rounding import Switches, float_array

__all__ = [
    "Accumulator",
    "AccumulatorLike",
    "MatrixUnit",
    "accumulator_of",
    "dot",
    "matmul",
    "mean",
    "multiplier",
    "sum",
]


def matmul(
    a: ArrayLike,
    b: ArrayLike,
    *,
    fmt: FormatLike = FP16,
    accumulator: AccumulatorLike = "fp32",
    block: int | None = None,
    out: Array | None = None,
    mode: str = "ties_to_even",
    **switches: Unpack[Switches],
) -> Any:
    """The matrix product a @ b, added as ``accumulator`` says and rounded to ``fmt`` at the end.

    a, b: floats as for ``round_to``, (..., m, k) and (..., k, n), taken as they are given; leading
        axes broadcast, and a 1-d operand is a row (left) or a column (right), as in ``np.matmul``.
    fmt: of the result, and where the accumulator does not name one, of products and sums.
    accumulator, block: see the module's text.
    out: an array to write to, with the shape and dtype of the result.
    mode, switches: as for ``round_to``, for every rounding. BLAS and matrix units round in their
        own way until the last. Stochastic rounding draws anew for each.

    A sum that is exactly zero is +0. Returns float32, or float64 if an operand is or the format
    needs it; a scalar for two 1-d operands. Raises ValueError for shapes that do not fit, for a bad
    ``out``, for float64 operands that do not fit an accumulator in fp32, TypeError for other
    dtypes.
    """
    task = Task.of("matmul", fmt, accumulator, block, mode, switches)
    x, y, xp = _arrays(a=a, b=b)
    if not (x.ndim and y.ndim):
        raise ValueError(f"a and b need at least one axis each, got {x.shape} and {y.shape}")
    rows = x[None, :] if x.ndim == 1 else x
    columns = y[:, None] if y.ndim == 1 else y
    if rows.shape[-1] != columns.shape[-2]:
        raise ValueError(f"a has {rows.shape[-1]} columns and b {columns.shape[-2]} rows")
    leading = _broadcast_shapes(rows.shape[:-2], columns.shape[:-2], "leading axes of a and b")
    shape = (*leading, rows.shape[-2], columns.shape[-1])
    dtype = np.result_type(carrier_of(task.how.fmt), x.dtype, y.dtype)
    result_shape = leading + shape[-2:-1] * (x.ndim > 1) + shape[-1:] * (y.ndim > 1)
    _check_out(out, result_shape, dtype, xp)
    rows, columns = task.operands(rows, columns)
    rows = xp.broadcast_to(rows, leading + rows.shape[-2:])
    columns = xp.broadcast_to(columns, leading + columns.shape[-2:])
    result: Array = xp.empty(result_shape, dtype) if out is None else out
    if not result.flags.c_contiguous or any(
        xp.may_share_memory(result, p) for p in (rows, columns)
    ):
        result = xp.empty(result_shape, dtype)
    matrices = result.reshape(shape)
    for index in np.ndindex(*leading):
        task.matrices(rows[index], columns[index], matrices[index])
    if out is not None:
        out[...] = result  # costs nothing if they are the same
        return out
    return result[()] if result.ndim == 0 else result


def dot(
    x: ArrayLike,
    y: ArrayLike,
    *,
    fmt: FormatLike = FP16,
    accumulator: AccumulatorLike = "fp32",
    block: int | None = None,
    mode: str = "ties_to_even",
    **switches: Unpack[Switches],
) -> Any:
    """Dot products over the last axis, which has one length in both; leading axes broadcast.

    As ``np.vecdot``; the other arguments as for ``matmul``.
    """
    task = Task.of("dot", fmt, accumulator, block, mode, switches)
    first, second, xp = _arrays(x=x, y=y)
    if not (first.ndim and second.ndim) or first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"x and y need a last axis of one length, got shapes {first.shape} and {second.shape}"
        )
    leading = _broadcast_shapes(first.shape[:-1], second.shape[:-1], "leading axes of x and y")
    dtype = np.result_type(carrier_of(task.how.fmt), first.dtype, second.dtype)
    result = xp.empty(leading, dtype)
    pair = (xp.broadcast_to(p, leading + p.shape[-1:]) for p in task.operands(first, second))
    flat_x, flat_y = (p.reshape(result.size, first.shape[-1]) for p in pair)
    task.vectors(flat_x, flat_y, result.reshape(-1))
    return result[()] if result.ndim == 0 else result


def sum(  # noqa: A001 - NumPy's name
    x: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
    fmt: FormatLike = FP16,
    accumulator: AccumulatorLike = "fp32",
    block: int | None = None,
    mode: str = "ties_to_even",
    **switches: Unpack[Switches],
) -> Any:
    """The sum over ``axis`` (all if None), added as ``accumulator`` says.

    The dot product with ones: values are rounded to the accumulator's format before they are added
    (but not by "fma"). In the order of the axes as they are in memory, the last fastest. The other
    arguments as for ``matmul``; a matrix unit cannot sum (multiply by a matrix of ones).
    """
    task = Task.of("sum", fmt, accumulator, block, mode, switches)
    return _reduced(task, x, axis, keepdims, mean=False)


def mean(
    x: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
    fmt: FormatLike = FP16,
    accumulator: AccumulatorLike = "fp32",
    block: int | None = None,
    mode: str = "ties_to_even",
    **switches: Unpack[Switches],
) -> Any:
    """The mean over ``axis`` (all if None): a sum as in ``sum``, divided and rounded once.

    A sum that overflows its accumulator makes an infinite mean, as on a GPU. Of nothing: NaN.
    """
    task = Task.of("mean", fmt, accumulator, block, mode, switches)
    return _reduced(task, x, axis, keepdims, mean=True)


def _broadcast_shapes(x: tuple[int, ...], y: tuple[int, ...], what: str) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(x, y)
    except ValueError:
        raise ValueError(f"{what} do not broadcast: {x} and {y}") from None


def _arrays(**operands: ArrayLike) -> tuple[Array, Array, ModuleType]:
    """Two operands as arrays of one module, and that module."""
    (first, x), (second, y) = ((n, float_array(o, n, gpu=True)[0]) for n, o in operands.items())
    xp = namespace_of(x)
    if namespace_of(y) is not xp:
        raise TypeError(
            f"{first} is on the {_PLACES[xp is np]} and {second} on the {_PLACES[xp is not np]}; "
            "move one"
        )
    return x, y, xp


_PLACES = {True: "host", False: "GPU"}


def _check_out(out: object, shape: tuple[int, ...], dtype: np.dtype[Any], xp: ModuleType) -> None:
    if out is None:
        return
    if not isinstance(out, xp.ndarray):
        raise TypeError(f"out must be a {xp.__name__} array or None, got {type(out).__name__}")
    writeable = xp is not np or out.flags.writeable
    if out.shape != shape or out.dtype != dtype or not writeable:
        kind = "" if writeable else " and read-only"
        raise ValueError(
            f"out has shape {out.shape}, dtype {out.dtype}{kind}; "
            f"it must be writeable, of shape {shape} and dtype {dtype}"
        )


def _reduced(
    task: Task, x: ArrayLike, axis: int | tuple[int, ...] | None, keepdims: bool, mean: bool
) -> Any:
    values = float_array(x, "x", gpu=True)[0]
    xp = namespace_of(values)
    given = range(values.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for one in given:
        integer("axis", one, at_least=-values.ndim, at_most=values.ndim - 1)
    axes = sorted({one % values.ndim for one in given})
    if len(axes) < len(given):
        raise ValueError(f"axis={axis!r} names an axis twice")
    if isinstance(task.accumulator, MatrixUnit):
        raise ValueError(f"accumulator={task.accumulator} multiplies matrices; it cannot sum")
    kept = [one for one in range(values.ndim) if one not in axes]
    shape = tuple(values.shape[one] for one in kept)
    length = math.prod(values.shape[one] for one in axes)
    result = xp.empty(shape, np.result_type(carrier_of(task.how.fmt), values.dtype))
    terms, ones = task.operands(values, xp.ones((), values.dtype))
    terms = terms.transpose(*kept, *axes).reshape(result.size, length)
    if mean:
        task = replace(task, divisor=length)
    task.sums(terms, ones, result.reshape(-1))
    if keepdims:
        result = np.expand_dims(result, tuple(axes))
    return result[()] if result.ndim == 0 else result
