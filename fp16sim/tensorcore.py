"""Matrix units of GPUs, bit for bit: what a Tensor Core returns for a dot product.

A Tensor Core neither rounds every sum as fp32 does nor computes exactly: it shifts a block of
products and the running sum to the largest exponent among them, cuts off what hangs over, and adds.
Architectures differ in the length of the block and in how many bits they keep, so the same inputs
give different bits on each::

    fs.tensorcore.matmul(a, b, arch="V100")  # float32: what the accumulator holds
    fs.matmul(a, b, fmt="fp16", accumulator=fs.tensorcore.H100)  # the same, rounded to fp16
    with fs.autocast("fp16", accumulator=fs.tensorcore.A100): ...  # train on its arithmetic

A long dot product is a chain of steps along k, in order, each starting from the result of the one
before. A library may cut k in another way (split-K, several accumulators).

How far this is checked against hardware: single steps of fp16, bf16 and tf32, of fp8 on L40S, and
of fp8 on H100 without c, agree with outputs recorded on V100, A100, L40S, H100 and B200. Chains,
subnormal numbers, overflow, Turing (its block length is disputed), Blackwell's tcgen05 and AMD's
units rest on published models alone (``kernels.units.steps`` has the sources).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.arguments import one_of
from fp16sim.backend import Array, namespace_of
from fp16sim.formats import (
    BF16,
    E4M3,
    E5M2,
    FP16,
    FP32,
    TF32,
    Format,
    FormatLike,
    format_of,
)
from fp16sim.kernels.units import cpu
from fp16sim.kernels.units.steps import Aligned, Floored, Step, Tree
from fp16sim.rounding import Rounding, float_array


@dataclass(frozen=True)
class Unit:
    """A matrix unit: for each format of operands, what one step does.

    output: the format in which sums are kept between steps and returned, FP32 or FP16.
    """

    name: str
    steps: tuple[tuple[Format, Step], ...]
    output: Format = FP32

    def step_for(self, fmt: Format) -> Step | None:
        """What one step does to operands in this format; None if the unit does not take them."""
        return dict(self.steps).get(fmt)

    def takes(self, fmt: Format) -> bool:
        """Whether operands may be numbers of this format."""
        return self.step_for(fmt) is not None

    def with_output(self, fmt: FormatLike) -> Unit:
        """The same unit keeping its sums in FP32 or FP16 (of fp16 and fp8 operands; NVIDIA)."""
        output = format_of(fmt)
        one_of("fmt", output.name, ("fp32", "fp16"))
        kept = tuple(
            (operand, step)
            for operand, step in self.steps
            if output == FP32 or (isinstance(step, Aligned) and operand in _WITH_FP16_OUTPUT)
        )
        if not kept:
            raise ValueError(f"fmt={output} is not allowed: {self.name} keeps sums in fp32")
        return replace(self, steps=kept, output=output)

    def add_up(self, a: Array, b: Array, out: Array, fmt: Format | tuple[Format, Format]) -> Array:
        """Fill ``out`` with products of arrays that hold numbers of the format; see ``matmul``."""
        out[...] = 0
        self._add_to(a, b, out, fmt)
        return out

    def _add_to(self, a: Array, b: Array, out: Array, fmt: Format | tuple[Format, Format]) -> None:
        operands = fmt if isinstance(fmt, tuple) else (fmt, fmt)
        step = self.step_for(operands[0])
        assert step is not None
        if namespace_of(a) is np:
            cpu.add_up(a, b, out, step, operands, self.output)
        elif isinstance(step, Aligned):
            gpu = importlib.import_module("fp16sim.kernels.units.gpu")
            gpu.add_up(a, b, out, step, operands, self.output)
        else:
            raise TypeError(f"a and b are CuPy arrays, which {self} does not take; say .get()")

    def __str__(self) -> str:
        return self.name if self.output == FP32 else f"{self.name} ({self.output} sums)"


_WITH_FP16_OUTPUT = (FP16, E4M3, E5M2)


def _nvidia(
    name: str,
    half: Aligned,
    *,
    bf16: bool = True,
    tf32: Step | None = None,
    fp8: Step | None = None,
) -> Unit:
    steps: list[tuple[Format, Step]] = [(FP16, half)]
    steps += [(BF16, half)] if bf16 else []
    steps += [] if tf32 is None else [(TF32, tf32)]
    steps += [] if fp8 is None else [(E4M3, fp8), (E5M2, fp8)]
    return Unit(name, tuple(steps))


V100 = _nvidia("V100", Aligned(4, 23), bf16=False)
T4 = _nvidia("T4", Aligned(8, 24), bf16=False)
A100 = _nvidia("A100", Aligned(8, 24), tf32=Aligned(4, 24))
L40S = _nvidia("L40S", Aligned(8, 24), tf32=Aligned(4, 24), fp8=Aligned(16, 13, kept_bits=13))
H100 = _nvidia("H100", Aligned(16, 25), tf32=Aligned(8, 25), fp8=Aligned(32, 13, kept_bits=13))
B200 = _nvidia("B200", Aligned(16, 25), tf32=Aligned(8, 25), fp8=Aligned(32, 25))
MI250 = Unit("MI250", ((FP16, Tree(4)), (BF16, Tree(4))))
MI300 = Unit("MI300", ((FP16, Floored(8, 24)), (BF16, Floored(8, 24)), (TF32, Floored(4, 24))))

#: the units by name; H200's is H100's
ARCHITECTURES = {unit.name: unit for unit in (V100, T4, A100, L40S, H100, B200, MI250, MI300)}
ARCHITECTURES["H200"] = H100


def matmul(
    a: ArrayLike,
    b: ArrayLike,
    c: ArrayLike | None = None,
    *,
    arch: str | Unit = "H100",
    fmt: FormatLike | tuple[FormatLike, FormatLike] = FP16,
    output: FormatLike | None = None,
) -> Array:
    """a @ b + c, added as the matrix unit of a GPU adds; float32, whatever the output.

    a, b: numbers of ``fmt`` as floats, (..., m, k) and (..., k, n); leading axes broadcast. Of
        values for TF32 the bits that it does not have are cut off, as the hardware does.
    c: what the sums start from, of a shape that broadcasts to that of the result; zero if None.
        Numbers of the output format.
    arch: one of ``ARCHITECTURES``, or a ``Unit``.
    fmt: of both operands, or a pair (E4M3 with E5M2).
    output: in which format the unit keeps and returns sums, FP32 or FP16; None: the unit's.

    NaNs come out as the one that the hardware makes, 0x7FFFFFFF; zeros as +0 (AMD's MI250 keeps
    the sign). Raises ValueError for unknown architectures, formats they do not take, values that
    the format does not have, and shapes that do not fit.
    """
    if not isinstance(arch, Unit):
        arch = ARCHITECTURES[
            one_of("arch", arch.upper() if isinstance(arch, str) else arch, ARCHITECTURES)
        ]
    unit = arch if output is None else arch.with_output(output)
    pair = fmt if isinstance(fmt, tuple) else (fmt, fmt)
    if len(pair) != 2:
        raise ValueError(f"fmt={fmt!r} must be one format or a pair")
    formats = (format_of(pair[0]), format_of(pair[1]))
    left, right = unit.step_for(formats[0]), unit.step_for(formats[1])
    if left is None or left != right or (formats[0] != formats[1] and not _are_fp8(formats)):
        allowed = ", ".join(operand.name for operand, _ in unit.steps)
        raise ValueError(f"fmt={fmt} is not allowed for {unit}; it takes {allowed}")
    x, y = _operand(a, "a", formats[0]), _operand(b, "b", formats[1])
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2]:
        raise ValueError(
            f"a and b have shapes {x.shape} and {y.shape}; allowed are (..., m, k) and (..., k, n)"
        )
    try:
        leading = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        raise ValueError(f"leading axes do not broadcast: {x.shape} and {y.shape}") from None
    xp = namespace_of(x)
    result: Array = xp.zeros((*leading, x.shape[-2], y.shape[-1]), np.float32)
    if c is not None:
        start = _operand(c, "c", unit.output)
        try:
            result[...] = start
        except ValueError:
            raise ValueError(
                f"c has shape {start.shape}, which does not broadcast to {result.shape}"
            ) from None
    x = xp.broadcast_to(x, leading + x.shape[-2:])
    y = xp.broadcast_to(y, leading + y.shape[-2:])
    for index in np.ndindex(*leading):
        unit._add_to(x[index], y[index], result[index], formats)
    return result


def _are_fp8(formats: tuple[Format, Format]) -> bool:
    return all(fmt in (E4M3, E5M2) for fmt in formats)


def _operand(x: ArrayLike, name: str, fmt: Format) -> Array:
    """As float32, its values numbers of the format."""
    values = float_array(x, name, gpu=True)[0]
    if fmt == TF32:
        with np.errstate(all="ignore"):
            words = values.astype(np.float32).view(np.uint32)
        return (words & np.uint32(0xFFFFE000)).view(np.float32)
    if not np.array_equal(Rounding(fmt)(values), values, equal_nan=True):
        raise ValueError(f"{name} has values that {fmt} does not have; round them first")
    with np.errstate(all="ignore"):
        return values.astype(np.float32)
