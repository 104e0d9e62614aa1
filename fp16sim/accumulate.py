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

import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from types import ModuleType
from typing import Any, Protocol, TypeAlias, Unpack, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.arguments import integer, one_of
from fp16sim.arith.blockwise import round_one
from fp16sim.arith.rational import ADD, DIVIDE, FMA, MULTIPLY, SUBTRACT, Operation, operate
from fp16sim.backend import Array, carrier_of, namespace_of
from fp16sim.formats import FP16, FP32, FP64, Format, FormatLike, format_of
from fp16sim.kernels import compiled_if_worth
from fp16sim.kernels.layout import FLOAT32, FLOAT64
from fp16sim.kernels.sums import exact
from fp16sim.kernels.sums.cpu import Native, Nearest, carrier_of_sums, factors
from fp16sim.kernels.sums.orders import ORDERS, Arithmetic
from fp16sim.kernels.sums.terms import runs, tiles
from fp16sim.rounding import Rounding, Switches, float_array

#: what an ``Accumulator`` can do: BLAS's order, those of ``kernels.sums.orders``, no rounding
METHODS = ("any", *ORDERS, "exact")

NATIVE = {FP32: FLOAT32, FP64: FLOAT64}

# Results a tile: with what is computed on the way they fill the L2 cache.
TILE = 2**16
# Results that are computed before they are rounded: what is needed beside the result.
PANEL = 2**18
# As many products take NumPy about as long as loading Numba does, and as many take as long as its
# calls do for every step along k.
PRODUCTS_WORTH_LOADING, OVERHEAD = 2**28, 2**13
EXACT_TILE = 2**15
# Products of a dot product at a time.
RUN = 2**12


@dataclass(frozen=True)
class Accumulator:
    """How the products of a dot product are added.

    method: "sequential", "fma", "pairwise", "kahan", "exact", or "any" (BLAS; fp32 and fp64 only).
    fmt: the format of products and sums, or its name; None for that of the result.
    block: how many products are added like this; the blocks' sums are added to ``between``, in
        order. None: all.

    Raises ValueError for an unknown method, block < 1, or what does not go together.
    """

    method: str = "sequential"
    fmt: Format | None = None
    block: int | None = None
    between: Format = FP32

    def __post_init__(self) -> None:
        one_of("method", self.method, METHODS)
        if self.fmt is not None:
            object.__setattr__(self, "fmt", format_of(self.fmt))
        object.__setattr__(self, "between", format_of(self.between, "between"))
        if self.block is not None:
            integer("block", self.block, at_least=1)
            if self.method in ("any", "exact"):
                raise ValueError(f"block={self.block} is not allowed for method={self.method!r}")
        if self.method == "any" and self.fmt not in (FP32, FP64):
            raise ValueError(f"fmt={self.fmt} is not allowed for method='any'; it is fp32 or fp64")

    def __str__(self) -> str:
        if self.method == "exact":
            return self.method
        parts = [] if self.fmt is None else [self.fmt.name]
        parts += [] if self.method == "any" else [self.method]
        return "-".join(parts) + ("" if self.block is None else f" in blocks of {self.block}")


@runtime_checkable
class MatrixUnit(Protocol):
    """Hardware that multiplies matrices in its own way; see ``tensorcore``."""

    def takes(self, fmt: Format) -> bool:
        """Whether operands may be numbers of this format."""

    def add_up(self, a: Array, b: Array, out: Array, fmt: Format) -> Array:
        """Fill ``out``, float32, with products of float32 arrays of numbers of the format.

        Shapes are (m, k), (k, n) and (m, n); or, for dot products of rows, (t, k), (t, k) and (t).
        """


AccumulatorLike: TypeAlias = Accumulator | MatrixUnit | FormatLike


def accumulator_of(
    accumulator: AccumulatorLike, block: int | None = None
) -> Accumulator | MatrixUnit:
    """The accumulator of that name (see the module's text), or itself; ``block`` is put in.

    Raises ValueError for unknown names and for blocks where there are none, TypeError for others.
    """
    if isinstance(accumulator, MatrixUnit):
        if block is not None:
            raise ValueError(f"block={block} is not allowed: {accumulator} has blocks of its own")
        return accumulator
    if isinstance(accumulator, Format):
        accumulator = _of_format(accumulator)
    elif isinstance(accumulator, str):
        accumulator = _named(accumulator)
    elif not isinstance(accumulator, Accumulator):
        raise TypeError(
            f"accumulator must be a name, a Format, an Accumulator or a matrix unit, "
            f"got {accumulator!r}"
        )
    return accumulator if block is None else replace(accumulator, block=block)


def _of_format(fmt: Format) -> Accumulator:
    return Accumulator("any" if fmt in (FP32, FP64) else "sequential", fmt)


def _named(name: str) -> Accumulator:
    lower = name.lower()
    if lower in (*ORDERS, "exact"):
        return Accumulator(lower)
    fmt, _, method = lower.partition("-")
    try:
        return Accumulator(method, format_of(fmt)) if method else _of_format(format_of(fmt))
    except ValueError:
        raise ValueError(
            f"accumulator={name!r} is not known; allowed are the name of a format, that with "
            f"{', '.join('-' + order for order in ORDERS)} behind it, these alone, and exact"
        ) from None


# ---------------------------------------------------------------------------------------------
# What users call


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

    A sum that is exactly zero is +0. Returns float32, or float64 if an operand is or the format needs it; a
    scalar for two 1-d operands. Raises ValueError for shapes that do not fit, for a bad ``out``,
    for float64 operands that do not fit an accumulator in fp32, TypeError for other dtypes.
    """
    task = _Task.of("matmul", fmt, accumulator, block, mode, switches)
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
    task = _Task.of("dot", fmt, accumulator, block, mode, switches)
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
    task = _Task.of("sum", fmt, accumulator, block, mode, switches)
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
    task = _Task.of("mean", fmt, accumulator, block, mode, switches)
    return _reduced(task, x, axis, keepdims, mean=True)


def multiplier(
    accumulator: Accumulator | MatrixUnit, fmt: Format
) -> Callable[[Array, Array], Array]:
    """``x @ y`` for arrays of numbers of the format, not yet rounded to it: the engine's door.

    No checks. What a matrix unit does not take is added up by BLAS, as a GPU's other units would.
    """
    if isinstance(accumulator, MatrixUnit):
        if not accumulator.takes(fmt):
            return np.matmul
    elif accumulator.fmt is None and accumulator.method != "exact":
        accumulator = replace(accumulator, fmt=fmt)
    task = _Task("matmul", Rounding(fmt), accumulator)

    def multiply(x: Array, y: Array) -> Array:
        xp = namespace_of(x)
        if y.ndim == 2:  # one matrix of all rows
            leading, batch, x = x.shape[:-1], (), x.reshape(-1, x.shape[-1])
        else:
            batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
            leading = (*batch, x.shape[-2])
            x = xp.broadcast_to(x, batch + x.shape[-2:])
            y = xp.broadcast_to(y, batch + y.shape[-2:])
        result: Array = xp.empty((*batch, *x.shape[-2:-1], y.shape[-1]), task.raw_dtype(x, y))
        with np.errstate(all="ignore"):
            for index in np.ndindex(*batch):
                for a, b, out in task.panels(x[index], y[index], result[index], PANEL):
                    out[...] = task.products(a, b, out)
        return result.reshape(*leading, y.shape[-1])

    return multiply


# ---------------------------------------------------------------------------------------------
# How it is done


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
    task: _Task, x: ArrayLike, axis: int | tuple[int, ...] | None, keepdims: bool, mean: bool
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
    task.vectors(terms, xp.broadcast_to(ones, terms.shape), result.reshape(-1))
    if keepdims:
        result = np.expand_dims(result, tuple(axes))
    return result[()] if result.ndim == 0 else result


@dataclass(frozen=True)
class _Task:
    """What to compute, checked."""

    name: str
    #: the last rounding; the accumulator's are like it, but to its own format
    how: Rounding
    accumulator: Accumulator | MatrixUnit
    divisor: int | None = None

    @classmethod
    def of(
        cls,
        name: str,
        fmt: FormatLike,
        accumulator: AccumulatorLike,
        block: int | None,
        mode: str,
        switches: Switches,
    ) -> _Task:
        how = Rounding.of(fmt, mode, **switches)
        adds = accumulator_of(accumulator, block)
        if isinstance(adds, MatrixUnit):
            if not adds.takes(how.fmt):
                raise ValueError(f"fmt={how.fmt} is not a format that {adds} takes")
        elif adds.fmt is None and adds.method != "exact":
            adds = replace(adds, fmt=how.fmt)
        return cls(name, how, adds)

    def operands(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Both as float32 if that changes nothing, else as float64. Refuses what does not fit."""
        if x.dtype == np.float64 or y.dtype == np.float64:
            narrow = [_if_exact(p, np.float32) for p in (x, y)]
            if narrow[0] is not None and narrow[1] is not None:
                x, y = narrow[0], narrow[1]
            else:
                x, y = x.astype(np.float64), y.astype(np.float64)
        adds = self.accumulator
        if isinstance(adds, MatrixUnit):
            for name, p in (("a", x), ("b", y)):
                if not np.array_equal(replace(self.how, mode="toward_zero", draw=None)(p), p, True):
                    raise ValueError(
                        f"{name} has values that {self.how.fmt} does not have; round them first"
                    )
        elif adds.method == "any" and adds.fmt == FP32 and x.dtype == np.float64:
            raise ValueError(
                "an operand has float64 values that float32 does not have; round it first, or "
                "accumulate in fp64"
            )
        return x, y

    def matrices(self, a: Array, b: Array, out: Array) -> None:
        """a @ b into ``out``: (m, k) @ (k, n)."""
        self._in_panels(a, b, out, PANEL)

    def vectors(self, x: Array, y: Array, out: Array) -> None:
        """Dot products of rows into ``out``: (t, k) and (t, k) to (t)."""
        self._in_panels(x, y, out, max(1, PANEL // max(1, min(x.shape[1], RUN))))

    def _in_panels(self, x: Array, y: Array, results: Array, size: int) -> None:
        with np.errstate(all="ignore"):
            for a, b, out in self.panels(x, y, results, size):
                if self._needs_fractions():
                    self._by_fractions(a, b, out)
                else:
                    self._round(self.products(a, b, out), out)

    def panels(
        self, a: Array, b: Array, out: Array, size: int
    ) -> Iterator[tuple[Array, Array, Array]]:
        """Parts of about ``size`` results, with their factors; all of them views."""
        rows = max(1, size // max(1, out[:1].size))
        for start in range(0, out.shape[0], rows):
            panel = slice(start, start + rows)
            yield a[panel], b if out.ndim == 2 else b[panel], out[panel]

    def raw_dtype(self, *operands: Array) -> np.dtype[Any]:
        """The dtype that holds what ``products`` gives."""
        adds = self.accumulator
        if isinstance(adds, MatrixUnit):
            return np.dtype(np.float32)
        if adds.method == "exact":
            return np.dtype(np.float64)
        between = () if adds.block is None else (carrier_of(adds.between),)
        dtypes = (operand.dtype for operand in operands)
        return np.result_type(carrier_of(adds.fmt or FP32), *between, *dtypes)

    def products(self, a: Array, b: Array, out: Array) -> Array:
        """The accumulated results for ``out``, not yet rounded to the format of the result."""
        adds = self.accumulator
        if namespace_of(a) is not np and adds == Accumulator("exact"):
            raise TypeError("accumulator='exact' takes NumPy arrays only; say .get() to copy")
        if isinstance(adds, MatrixUnit):
            sums = namespace_of(a).empty(out.shape, np.float32)
            return adds.add_up(a, b, sums, self.how.fmt)
        if adds.method == "any":
            dtype = carrier_of(adds.fmt or FP32)
            a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
            return a @ b if out.ndim == 2 else (a[:, None, :] @ b[:, :, None])[:, 0, 0]
        if adds.method == "exact":
            return _exactly(a, b, np.empty(out.shape))
        return _in_order(a, b, out.shape, adds, self.how)

    def _needs_fractions(self) -> bool:
        """Whether a float64 rounded to odd has too few bits, or too few exponents.

        A mean s/n lies on the same side of a number or midpoint m as s of n m, which has more.
        """
        if self.accumulator != Accumulator("exact"):
            return False
        fmt, bits = self.how.fmt, (self.divisor or 1).bit_length()
        return fmt.precision + 1 + bits > 52 or fmt.emin < -900 or fmt.emax > 900

    def _by_fractions(self, a: Array, b: Array, out: Array) -> None:
        """Exact sums rounded once, one by one."""
        specials = np.full(out.shape, np.nan) if self.divisor == 0 else _specials(a, b, out)
        for index in np.ndindex(out.shape):
            if np.isfinite(specials[index]):
                column = b[:, index[1]] if out.ndim == 2 else b[index]
                truth = exact.exact_dot(a[index[0]], column) / (self.divisor or 1)
                origin = events.Origin(events.current_scope(), self.name, "value")
                with events.unobserved():
                    out[index] = round_one(truth, self.how, 0.0, origin)
            else:
                out[index] = self.how(specials[index].reshape(1))[0]

    def _round(self, raw: Array, out: Array) -> None:
        wide = raw.astype(np.result_type(raw.dtype, carrier_of(self.how.fmt)), copy=False)
        with events.unobserved():
            if self.divisor is None:
                rounded = self.how(wide)
            else:
                rounded = operate(DIVIDE, [wide, np.float64(self.divisor)], self.how)
        if events.observed():
            origin = events.Origin(events.current_scope(), self.name, "value")
            events.announce(events.Rounded(wide, rounded, self.how.fmt, origin))
        out[...] = rounded


def _if_exact(x: Array, dtype: Any) -> Array | None:
    """The same values in another dtype, or None if they are not the same."""
    with np.errstate(all="ignore"):
        narrow: Array = x.astype(dtype)
    return narrow if np.array_equal(narrow, x, equal_nan=True) else None


def _in_order(
    a: Array, b: Array, shape: tuple[int, ...], adds: Accumulator, how: Rounding
) -> Array:
    """Sums in the order and format of the accumulator, rounded at every step as ``how`` says."""
    fmt, length = adds.fmt or how.fmt, a.shape[1]
    known = factors(a, b)
    carrier = None
    if how.mode == "ties_to_even" and how.subnormals:
        carrier = carrier_of_sums(fmt, adds.method, how.saturate, known)
    # Sums of blocks are rounded right by the processor if one addition is all there is to round.
    native = carrier is not None and not how.saturate and adds.between.contains(fmt)
    between = NATIVE.get(adds.between) if native else None
    inside = FLOAT64 if carrier is None else carrier
    dtypes = () if adds.block is None else (carrier_of(adds.between),)
    xp = namespace_of(a)
    out: Array = xp.empty(shape, np.result_type(inside.floats, *dtypes))
    if xp is not np:
        if carrier is None or (adds.block is not None and between is None):
            raise TypeError(
                f"a and b are CuPy arrays; there {adds} works with mode='ties_to_even' and "
                "operands that have room (float32 with at most 12 significant bits)"
            )
        gpu = importlib.import_module("fp16sim.kernels.sums.gpu")
        gpu.add_up(a, b, out, adds.method, fmt, how.saturate, carrier, adds.block, adds.between)
        return out
    for left, right, sums in tiles(a, b, out, TILE):
        if carrier is None:
            inner: Arithmetic = _Exactly(replace(how, fmt=fmt), sums.shape)
        elif fmt == carrier.fmt:
            inner = Native(carrier, sums.shape)
        else:
            inner = Nearest(fmt, how.saturate, carrier, sums.shape, known, length)
        run = adds.block or max(1, TILE // max(sums.shape, default=1))
        add_up = _adder(inner, adds.method, fmt, how.saturate, length * (out.size + OVERHEAD))
        parts = runs(left, right, sums, run, inside.floats)
        if adds.block is None:
            total = add_up(parts)
        else:
            outer: Arithmetic = _Exactly(replace(how, fmt=adds.between), sums.shape)
            if between is not None:
                outer = Native(between, sums.shape)
            total = outer.zeros()
            for part in parts:
                outer.add(total, add_up([part]), out=total)
        np.add(total, 0, out=sums)  # +0 of -0
    return out


def _adder(
    calc: Arithmetic, method: str, fmt: Format, saturate: bool, products: int
) -> Callable[[Iterable[tuple[Array, Array]]], Array]:
    """A function from runs of factors to sums: compiled if that can be and is worth it."""
    compiled = compiled_if_worth(products / PRODUCTS_WORTH_LOADING, ".sums")
    if compiled is None or not isinstance(calc, Native) or method not in compiled.METHODS:
        order = ORDERS[method]
        return lambda parts: order(chain.from_iterable(zip(*p, strict=True) for p in parts), calc)
    advance = compiled.advance(calc, method, fmt, saturate)

    def add_up(parts: Iterable[tuple[Array, Array]]) -> Array:
        total = calc.zeros()
        error = calc.zeros() if method == "kahan" else total
        for left, right in parts:
            advance(left, right, total, error)
        return total

    return add_up


class _Exactly:
    """Arithmetic for every format, mode and operand, by ``arith``: right, and slow."""

    def __init__(self, how: Rounding, shape: tuple[int, ...]) -> None:
        self.how, self.shape = how, shape

    def zeros(self) -> Array:
        return np.zeros(self.shape)

    def multiply(self, x: Array, y: Array, out: Array) -> Array:
        return self._store(MULTIPLY, [x, y], out)

    def add(self, x: Array, y: Array, out: Array) -> Array:
        return self._store(ADD, [x, y], out)

    def subtract(self, x: Array, y: Array, out: Array) -> Array:
        return self._store(SUBTRACT, [x, y], out)

    def fma(self, x: Array, y: Array, z: Array, out: Array) -> Array:
        return self._store(FMA, [x, y, z], out)

    def _store(self, operation: Operation, operands: list[Array], out: Array) -> Array:
        with events.unobserved():  # what is stored at the end is reported, not every step
            out[...] = operate(operation, operands, self.how)
        return out


def _exactly(a: Array, b: Array, out: Array) -> Array:
    """Exact sums, rounded to odd in float64."""
    specials = _specials(a, b, out)
    if not np.isfinite(specials).all():
        a, b = (np.where(np.isfinite(p), p, p.dtype.type(0)) for p in (a, b))
    for left, right, sums in tiles(a, b, out, EXACT_TILE):
        if out.ndim == 2:
            sums[...] = exact.dot_to_odd(left, right)
        else:
            sums[...] = exact.dot_to_odd(left[:, None, :], right[:, :, None])[:, 0, 0]
    out[...] = np.where(np.isfinite(specials), out, specials)
    return out


def _specials(a: Array, b: Array, out: Array) -> Array:
    """The infinity or NaN that infinities and NaNs among the factors make of a sum; else finite."""
    if np.isfinite(a).all() and np.isfinite(b).all():
        return np.zeros(out.shape)
    # How large finite factors are does not matter, only their signs.
    x, y = (np.where(np.isfinite(p), np.sign(p), p).astype(np.float64) for p in (a, b))
    return x @ y if out.ndim == 2 else np.vecdot(x, y)
