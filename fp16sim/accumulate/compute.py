"""How a product is added up: what is checked already, cut into panels and tiles, and rounded."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from fp16sim import events
from fp16sim.accumulate.accumulator import Accumulator, AccumulatorLike, MatrixUnit, accumulator_of
from fp16sim.arith.blockwise import round_one
from fp16sim.arith.rational import ADD, DIVIDE, FMA, MULTIPLY, SUBTRACT, Operation, operate
from fp16sim.backend import Array, carrier_of, namespace_of
from fp16sim.formats import FP32, FP64, Format, FormatLike
from fp16sim.kernels import compiled_if_worth
from fp16sim.kernels.layout import FLOAT32, FLOAT64
from fp16sim.kernels.sums import exact
from fp16sim.kernels.sums.cpu import Native, Nearest, carrier_of_sums, factors
from fp16sim.kernels.sums.orders import ORDERS, Arithmetic
from fp16sim.kernels.sums.terms import runs, tiles
from fp16sim.rounding import Rounding, Switches

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
class Task:
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
    ) -> Task:
        """From the arguments that all functions have, and with their errors."""
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

    def sums(self, terms: Array, ones: Array, out: Array) -> None:
        """Sums of rows into ``out``: (t, k) to (t). ones: 1 on the same device."""
        adds = self.accumulator
        if isinstance(adds, Accumulator) and adds.method == "any":
            with np.errstate(all="ignore"):
                self._round(terms.sum(axis=1, dtype=carrier_of(adds.fmt or FP32)), out)
            return
        self.vectors(terms, namespace_of(terms).broadcast_to(ones, terms.shape), out)

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
    task = Task("matmul", Rounding(fmt), accumulator)

    def multiply(x: Array, y: Array) -> Array:
        xp = namespace_of(x)
        if y.ndim == 2:  # one matrix of all rows
            leading, batch = x.shape[:-1], ()
            x = x.reshape(math.prod(leading), x.shape[-1])
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
