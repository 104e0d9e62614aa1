"""Matrix units in NumPy: a step at a time for a tile of results, in floating point that is exact.

Exponents are held as powers of two: that of a product is the product of its factors' powers, the
largest is a maximum, and shifting is multiplying. Terms that were cut off are integers; they are
held in float32 and int32 where all have room (fp16, fp8), which is twice as fast, else in float64.
The sum that is carried from step to step is held in float64.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fp16sim.backend import Array
from fp16sim.formats import FP16, FP32, Format
from fp16sim.kernels import compiled_if_worth, cpu
from fp16sim.kernels.layout import FLOAT64, carrier_for
from fp16sim.kernels.sums.cpu import factors
from fp16sim.kernels.sums.terms import runs, tiles
from fp16sim.kernels.units.steps import Aligned, Floored, Step, Tree

# Results a tile: what is computed on the way fills the L2 cache.
TILE = 2**14
# As many products take NumPy about as long as loading Numba does, and as many take as long as its
# calls do for every product of a step.
WORTH_LOADING, OVERHEAD = 2**27, 2**12
# Sums below this, but zero, are left to NumPy: their scale has no room in float32.
_TINY = 2.0**-60
#: the one NaN that matrix units make
NAN = 0x7FFFFFFF


def add_up(
    a: Array, b: Array, out: Array, step: Step, operands: tuple[Format, Format], output: Format
) -> None:
    """Add the products of float32 arrays to ``out``, float32, step by step along k.

    Shapes are (m, k), (k, n) and (m, n); or, of dot products of rows, (t, k), (t, k) and (t).
    operands: the formats whose numbers a and b hold. output: FP32 or FP16, of ``out``.
    """
    make: Callable[..., _Unit] = {Aligned: _Aligned, Tree: _Tree, Floored: _Floored}[type(step)]
    known = factors(a, b)
    with np.errstate(all="ignore"):
        most = np.abs(out).max(initial=0) + a.shape[1] * known.largest
    specials = not known.finite or not most < output.max / 2
    tiny = bool(((out != 0) & (np.abs(out) < _TINY)).any())
    if (isinstance(step, Aligned) and output == FP32 and not (specials or tiny)) and (
        compiled_if_worth(a.shape[1] * (out.size + OVERHEAD) / WORTH_LOADING, ".units")
    ):
        make = _Compiled
    with np.errstate(all="ignore"):
        for left, right, sums in tiles(a, b, out, TILE):
            unit = make(step, operands, output, sums)
            add = partial(_step_with_specials, unit) if specials else unit.add
            for x, y in runs(left, right, sums, step.length, unit.floats):
                add(x, y)
            sums[...] = unit.total
    words = out.view(np.uint32)
    words[np.isnan(out)] = NAN


def _step_with_specials(unit: _Unit, x: Array, y: Array) -> None:
    """Infinities and NaNs as they come out whatever the finite values are; then those."""
    total = unit.total
    # Of finite factors only the sign counts; of a finite total nothing.
    signs = (np.where(np.isfinite(factor), np.sign(factor), factor) for factor in (x, y))
    special = np.multiply(*signs).sum(axis=0) + np.where(np.isfinite(total), 0, total)
    unit.total = np.where(np.isfinite(total), total, 0)
    unit.add(*(np.where(np.isfinite(factor), factor, factor.dtype.type(0)) for factor in (x, y)))
    infinite = np.copysign(np.inf, unit.total)
    unit.total = np.where(np.abs(unit.total) > unit.output.max, infinite, unit.total)
    unit.total = np.where(np.isfinite(special), unit.total, special)


def _powers(x: Array, emin: int) -> Array:
    """2^e for 2^e <= |x| < 2^(e+1), but 2^emin for what is smaller, and 0 for 0."""
    carrier = carrier_for(x.dtype)
    powers: Array = (x.view(carrier.words) & carrier.exponent_mask).view(carrier.floats)
    least = carrier.floats(2.0**emin)
    if powers.min(initial=np.inf) < least:
        powers[(powers < least) & (x != 0)] = least
    return powers


class _Unit(ABC):
    """A tile of sums. ``add`` does one step; factors broadcast to (length, *tile)."""

    floats: Any = np.float64

    def __init__(
        self, step: Any, operands: tuple[Format, Format], output: Format, start: Array
    ) -> None:
        self.step, self.operands, self.output = step, operands, output
        self.total = start.astype(np.float64)

    @abstractmethod
    def add(self, x: Array, y: Array) -> None:
        """One step: the factors of its products, first axis first."""


def _largest(x: Array, y: Array, operands: tuple[Format, Format], out: Array) -> Array:
    """The largest power of the products x y, over the first axis."""
    powers = [_powers(factor, fmt.emin) for factor, fmt in zip((x, y), operands, strict=True)]
    largest, power = out, np.empty_like(out)
    largest[...] = 0
    for p, q in zip(*powers, strict=True):
        np.maximum(largest, np.multiply(p, q, out=power), out=largest)
    return largest


def fit_float32(step: Aligned | Floored, operands: tuple[Format, Format]) -> bool:
    """Whether float32 has room for all products and scales, and int32 for all sums of a step."""
    if any(fmt.precision > 12 or fmt.emin < -14 or fmt.emax > 15 for fmt in operands):
        return False
    largest = (2 - operands[0].eps) * (2 - operands[1].eps)
    return step.length * largest * 2.0**step.fraction_bits < 2**31


class _Aligned(_Unit):
    def __init__(
        self, step: Aligned, operands: tuple[Format, Format], output: Format, start: Array
    ) -> None:
        super().__init__(step, operands, output, start)
        narrow = fit_float32(step, operands)
        self.floats = np.float32 if narrow else np.float64
        self.term = np.empty(start.shape, self.floats)
        self.whole = np.empty(start.shape, np.int32) if narrow else self.term
        self.sum = np.empty(start.shape, np.int32 if narrow else np.float64)
        self.emin = output.emin

    def add(self, x: Array, y: Array) -> None:
        total, bits = self.total, self.step.fraction_bits
        power = np.maximum(_largest(x, y, self.operands, self.term), _powers(total, self.emin))
        power[power == 0] = 1
        scale = 2.0**bits / power
        # Where float32 has no room for the scale, all products are zero and c is tiny.
        most = 2.0**100 if self.floats is np.float32 else np.inf
        narrow = np.minimum(scale, most).astype(self.floats)
        self.sum[...] = 0
        for p, q in zip(x, y, strict=True):
            np.multiply(p, q, out=self.term)
            np.multiply(self.term, narrow, out=self.term)
            if self.whole is self.term:
                np.trunc(self.term, out=self.term)
            else:
                np.copyto(self.whole, self.term, casting="unsafe")
            np.add(self.sum, self.whole, out=self.sum)
        np.multiply(total, scale, out=total)
        np.trunc(total, out=total)
        np.add(total, self.sum, out=total)
        np.multiply(total, power, out=total)
        np.multiply(total, 2.0**-bits, out=total)
        self._store()

    def _store(self) -> None:
        """Cut the total off to what the unit writes."""
        total = self.total
        if self.output == FP16:
            flat = total.reshape(-1)
            cpu.round_array(flat.copy(), flat, FP16)
            np.add(total, 0, out=total)  # +0 of -0
            return
        words = total.view(np.int64)
        kept = self.step.kept_bits
        np.bitwise_and(words, -1 << (FLOAT64.fraction_bits - kept), out=words)
        size = (words & FLOAT64.exponent_mask.view(np.int64)).view(np.float64)
        if size.min(initial=np.inf) < FP32.smallest_normal:
            spacing = 2.0 ** (FP32.emin - kept)
            small = np.abs(total) < FP32.smallest_normal
            total[small] = np.trunc(total[small] / spacing) * spacing + 0.0


class _Compiled(_Aligned):
    """The same by ``units.compiled``; for fp32 sums, finite, none of them tiny but not zero."""

    def add(self, x: Array, y: Array) -> None:
        compiled = importlib.import_module("fp16sim.kernels.units.compiled")
        narrow, vectors = self.floats is np.float32, self.total.ndim == 1
        if missing := -len(x) % 4:
            x, y = (
                np.concatenate([p, np.zeros_like(p, shape=(missing, *p.shape[1:]))]) for p in (x, y)
            )
        powers = [_powers(p, fmt.emin) for p, fmt in zip((x, y), self.operands, strict=True)]
        flat = [p.reshape(len(p), -1) for p in (x, y, *powers)]
        compiled.advance(self.step, narrow, vectors)(*flat, self.total)


class _Floored(_Unit):
    def add(self, x: Array, y: Array) -> None:
        bits = self.step.fraction_bits
        largest = _largest(x, y, self.operands, np.empty(self.total.shape))
        scale = 2.0**bits / np.where(largest == 0, 1, largest)
        products = np.trunc(x * y * scale).sum(axis=0) / scale
        power = np.maximum(largest, _powers(self.total, FP32.emin))
        power[power == 0] = 1
        products = np.floor(products * (2.0**31 / power)) / 2.0**31
        total = np.floor(self.total * (2.0**bits / power)) / 2.0**bits
        self.total = ((products + total) * power).astype(np.float32).astype(np.float64)


class _Tree(_Unit):
    floats = np.float32

    def add(self, x: Array, y: Array) -> None:
        length = self.step.length
        terms = np.zeros((length, *self.total.shape), np.float32)
        left, right = (
            np.where(np.abs(factor) < fmt.smallest_normal, np.float32(0), factor)
            for factor, fmt in zip((x, y), self.operands, strict=True)
        )
        terms[: len(x)] = _flushed(left * right)
        while len(terms) > 1:
            terms = _flushed(terms[0::2] + terms[1::2])
        total = _flushed(self.total.astype(np.float32))
        self.total = _flushed(total + terms[0]).astype(np.float64)


def _flushed(x: Array) -> Array:
    """Subnormal fp32 numbers as zeros with their signs."""
    return np.where(np.abs(x) < np.float32(FP32.smallest_normal), np.copysign(np.float32(0), x), x)
