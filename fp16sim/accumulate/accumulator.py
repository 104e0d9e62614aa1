"""What an accumulator is: a name, a format, an ``Accumulator``, or a matrix unit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

from fp16sim.arguments import integer, one_of
from fp16sim.backend import Array
from fp16sim.formats import FP32, FP64, Format, FormatLike, format_of
from fp16sim.kernels.sums.orders import ORDERS

#: what an ``Accumulator`` can do: BLAS's order, those of ``kernels.sums.orders``, no rounding
METHODS = ("any", *ORDERS, "exact")


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
