"""Block formats: groups of low-precision elements that share a scale.

A value is element × scale of its block (× scale of the tensor, in NVFP4). Two recipes:

*MX*, for scales that are powers of two (OCP Microscaling Formats Specification 1.0, section 6.3):
the scale of a block is X = 2^(floor(log2(max|V|)) - emax) with the element format's emax, held
within the range of E8M0; elements are V/X, rounded once, saturating. Both steps are exact here, for
all float32 and float64 values. What the specification leaves open: a block of zeros gets the
smallest scale; a block with an infinity or a NaN gets the scale NaN, which makes all of it NaN.
(Other software rounds log2 up, so that nothing saturates; that is not this recipe.)

*NVFP4*, for scales that are E4M3 numbers (NVIDIA, "Pretraining Large Language Models with NVFP4",
arXiv 2509.25149, appendix B; limits as in NVIDIA's Transformer Engine, quantization_ref_nvfp4.py).
Each operation is one in float32, rounded to nearest even, with subnormals:

    s_enc   = min(6·448 / amax_tensor, largest float32), or 1 if amax_tensor is 0
    s_dec   = 1 / s_enc                              the float32 scale of the tensor
    s_block = e4m3(min(amax_block / 6 · s_enc, 448)) the scale of the block, to nearest even
    element = e2m1(x · min(1 / (s_block · s_dec), largest float32))     saturating

Where s_block underflows to 0, the values of the block are 0, though its elements need not be. A
block with an infinity or a NaN becomes NaN as in MX, and does not count in amax_tensor; neither
source has a rule for it. Later Transformer Engines compute amax_block · (s_enc · (1/6)), and their
dequantization uses amax_tensor · (1/2688) for s_dec; either can be another float32 next to ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fp16sim.arguments import integer, real
from fp16sim.backend import Array, RandomLike, namespace_of
from fp16sim.events import Origin
from fp16sim.formats import E2M1, E2M3, E3M2, E4M3, E5M2, E8M0, FP32, Format
from fp16sim.rounding import decode, encode, float_array, round_to, store


@dataclass(frozen=True)
class BlockFormat:
    """Elements of one format that share a scale of another, ``size`` at a time.

    An unsigned scale format stands for the MX recipe, a signed one for NVFP4's (module docstring).
    Raises TypeError or ValueError if the fields do not describe a block format.
    """

    #: the name it prints and is looked up by
    name: str
    #: format of the elements: signed, at most 8 bits
    element: Format
    #: format of the scales: E8M0, or a signed one with NaN; at most 8 bits
    scale: Format
    #: elements in a block
    size: int
    #: whether there is a float32 scale for the whole tensor as well
    tensor_scale: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be a non-empty string, got {self.name!r}")
        integer("size", self.size, at_least=1)
        for field in ("element", "scale"):
            fmt = getattr(self, field)
            if not isinstance(fmt, Format):
                raise TypeError(f"{field} must be a Format, got {fmt!r}")
            if fmt.bits > 8 or not FP32.contains(fmt):
                raise ValueError(
                    f"{field}={fmt} is not allowed; it must have at most 8 bits and fp32's range"
                )
        if not self.element.signed:
            raise ValueError(f"element={self.element} is not allowed; it must have a sign")
        if not self.scale.nans or (self.scale.precision > 1 and not self.scale.signed):
            raise ValueError(
                f"scale={self.scale} is not allowed; it must have NaN, and precision 1 or a sign"
            )
        if self.tensor_scale and not self.scale.signed:
            raise ValueError(f"tensor_scale=True needs a signed scale format, not {self.scale}")

    @property
    def bits(self) -> float:
        """Bits per value, its share of the scale included; 32 bits per tensor are not counted."""
        return self.element.bits + self.scale.bits / self.size

    @property
    def max(self) -> float:
        """The largest value; with a tensor scale, before that is multiplied in."""
        return self.element.max * self.scale.max

    def __repr__(self) -> str:
        return self.name


# OCP MX 1.0, table 1, and arXiv 2509.25149, section 2.
MXFP8_E4M3 = BlockFormat("mxfp8_e4m3", E4M3, E8M0, 32)
MXFP8_E5M2 = BlockFormat("mxfp8_e5m2", E5M2, E8M0, 32)
MXFP6_E3M2 = BlockFormat("mxfp6_e3m2", E3M2, E8M0, 32)
MXFP6_E2M3 = BlockFormat("mxfp6_e2m3", E2M3, E8M0, 32)
MXFP4 = BlockFormat("mxfp4", E2M1, E8M0, 32)
NVFP4 = BlockFormat("nvfp4", E2M1, E4M3, 16, tensor_scale=True)

_NAMED = {fmt.name: fmt for fmt in (MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4, NVFP4)}

BlockFormatLike: TypeAlias = BlockFormat | str


def block_format_of(fmt: BlockFormatLike, argument: str = "fmt") -> BlockFormat:
    """The block format itself, or the one of that name (case does not matter).

    Raises ValueError for an unknown name, TypeError for anything that is neither.
    """
    if isinstance(fmt, BlockFormat):
        return fmt
    if not isinstance(fmt, str):
        raise TypeError(f"{argument} must be a BlockFormat or a name, got {fmt!r}")
    if fmt.lower() not in _NAMED:
        raise ValueError(
            f"{argument}={fmt!r} is not a known block format; known are {', '.join(_NAMED)}"
        )
    return _NAMED[fmt.lower()]


@dataclass(frozen=True, eq=False)
class Blocks:
    """An array in a block format: bit patterns, and what it takes to read them.

    Raises ValueError if dtypes and shapes do not fit together.
    """

    #: bit patterns of the elements, uint8, in the shape of the array
    codes: Array
    #: bit patterns of the scales, uint8: the same shape with ``axis`` shortened to its blocks
    scales: Array
    #: the float32 scale of the tensor; 1 in formats that have none
    tensor_scale: float
    fmt: BlockFormat
    #: the axis along which a block lies, from 0
    axis: int
    #: the dtype that the values are decoded to: float32 or float64
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        real("tensor_scale", self.tensor_scale, above=0)
        integer("axis", self.axis, at_least=0, at_most=self.codes.ndim - 1)
        expected = list(self.codes.shape)
        expected[self.axis] = -(-expected[self.axis] // self.fmt.size)
        for name, array, shape in (
            ("codes", self.codes, self.codes.shape),
            ("scales", self.scales, tuple(expected)),
        ):
            if array.dtype != np.uint8 or array.shape != shape:
                raise ValueError(
                    f"{name} has dtype {array.dtype} and shape {array.shape}; "
                    f"it must be uint8 with the shape {shape}"
                )


def round_blocks(
    x: ArrayLike,
    fmt: BlockFormatLike,
    axis: int = -1,
    mode: str = "ties_to_even",
    *,
    rng: RandomLike = None,
) -> Any:
    """Round every value of ``x`` to a block format: quantize and dequantize.

    x: float values as for ``round_to``, with at least one axis.
    fmt: a ``BlockFormat`` or its name, as "mxfp4" or "nvfp4".
    axis: the axis along which neighbours share a scale. If the length is not a multiple of
        ``fmt.size``, the last block is shorter, as if zeros filled it.
    mode, rng: how the elements are rounded, as for ``round_to``; scales follow the recipe.

    Returns a new array of the shape of ``x``, float64 if ``x`` was, else float32: the product of
    element and scales, rounded once, to nearest even, if the dtype does not hold it (which of the
    formats named here happens in NVFP4 only, because of the tensor's scale). Rounding an MX result
    once more changes nothing; in NVFP4 it may, since the largest value can have changed. Observers
    are told of one ``round_to``, of the scaled values to elements.

    Raises ValueError for an unknown format or mode, an axis that ``x`` does not have, and in NVFP4,
    which computes in float32, for float64 values that are too large for it (others are rounded to
    it first); TypeError for dtypes that are not floating point.
    """
    fmt, values, axis = _arguments(x, fmt, axis)
    return _values(_quantized(values, fmt, axis, mode, rng), fmt, axis, values.dtype)


def store_blocks(values: Array, fmt: BlockFormat, axis: int, origin: Origin) -> Array:
    """``round_blocks`` as a step of a primitive: ``rounding.store`` for block formats.

    values: float32 or float64; on a GPU in MX formats only (TypeError), and there CuPy takes what
    is subnormal in float32 for zeros. Observers hear of the scaled values and the elements.
    """
    if fmt.scale.signed and namespace_of(values) is not np:
        raise TypeError(f"a CuPy array cannot be stored in {fmt}; move it by .to('cpu')")
    axis %= values.ndim
    if not values.size:
        return values.copy()
    with np.errstate(all="ignore"):
        scaled, scales, tensor_scale = (_nvfp4 if fmt.scale.signed else _mx)(values, fmt, axis)
    elements = store(scaled, fmt.element, origin, (values,), saturate=True)
    elements[namespace_of(elements).isnan(elements)] = 0  # whose scale is NaN
    return _values(_Quantized(elements, scales, tensor_scale), fmt, axis, values.dtype)


def encode_blocks(
    x: ArrayLike,
    fmt: BlockFormatLike,
    axis: int = -1,
    mode: str = "ties_to_even",
    *,
    rng: RandomLike = None,
) -> Blocks:
    """Quantize to a block format: bit patterns of elements and scales.

    Arguments and errors are those of ``round_blocks``. Elements of blocks with the scale NaN have
    the bit pattern 0.
    """
    fmt, values, axis = _arguments(x, fmt, axis)
    elements, scales, tensor_scale = _quantized(values, fmt, axis, mode, rng)
    codes = encode(elements, fmt.element)
    return Blocks(codes, encode(scales, fmt.scale), tensor_scale, fmt, axis, values.dtype)


def decode_blocks(blocks: Blocks) -> Any:
    """The values that ``blocks`` stand for; ``round_blocks`` gives the same, bit for bit.

    Returns an array of the shape of ``blocks.codes`` with dtype ``blocks.dtype``. Values beyond
    its range, which quantizing never makes, become infinite. Raises TypeError for anything but
    ``Blocks``, ValueError for bit patterns that the formats do not have.
    """
    if not isinstance(blocks, Blocks):
        raise TypeError(f"blocks must be Blocks from encode_blocks, got {type(blocks).__name__}")
    fmt = blocks.fmt
    elements, scales = decode(blocks.codes, fmt.element), decode(blocks.scales, fmt.scale)
    quantized = _Quantized(elements, scales, blocks.tensor_scale)
    return _values(quantized, fmt, blocks.axis, blocks.dtype)


class _Quantized(NamedTuple):
    elements: Array
    scales: Array
    tensor_scale: float


def _arguments(x: ArrayLike, fmt: BlockFormatLike, axis: int) -> tuple[BlockFormat, Array, int]:
    """The format, the values as float32 or float64 and the axis from 0; or an error."""
    fmt = block_format_of(fmt)
    values, _ = float_array(x, "x")
    if values.ndim == 0:
        raise ValueError("x has the shape (); it must have at least one axis")
    axis = integer("axis", axis, at_least=-values.ndim, at_most=values.ndim - 1)
    return fmt, values, axis % values.ndim


def _quantized(
    values: Array, fmt: BlockFormat, axis: int, mode: str, rng: RandomLike
) -> _Quantized:
    with np.errstate(all="ignore"):  # infinities, NaNs and what underflows, all meant
        scaled, scales, tensor_scale = (_nvfp4 if fmt.scale.signed else _mx)(values, fmt, axis)
    elements = round_to(scaled, fmt.element, mode, saturate=True, rng=rng)
    elements[np.isnan(elements)] = 0  # whose scale is NaN
    return _Quantized(elements, scales, tensor_scale)


def _mx(values: Array, fmt: BlockFormat, axis: int) -> _Quantized:
    """The values divided by their scales, exactly."""
    xp = namespace_of(values)
    largest = _block_maxima(values, fmt, axis)
    exponents = xp.frexp(largest)[1] - 1 - fmt.element.emax  # frexp: [1/2, 1), subnormals as well
    exponents = xp.clip(exponents, fmt.scale.emin, fmt.scale.emax)
    exponents[largest == 0] = fmt.scale.emin
    scales = xp.ldexp(xp.ones(exponents.shape), exponents)
    scaled = values.astype(np.float64)
    if values.dtype == np.float64:
        # Tiny values would underflow here. Below 2^-400 all are the same to every element format,
        # which cannot have numbers below 2^-149: not zero, and that is all.
        tiny = (scaled != 0) & (xp.abs(scaled) < 2.0**-400)
        scaled = xp.where(tiny, xp.copysign(2.0**-400, scaled), scaled)
    scales[~xp.isfinite(largest)] = np.nan
    scaled *= _per_value(1 / scales, fmt, axis, values.shape)
    return _Quantized(scaled, scales, 1.0)


def _nvfp4(values: Array, fmt: BlockFormat, axis: int) -> _Quantized:
    """The values times their factors, and the scales, in float32; see the module's docstring."""
    single = values.astype(np.float32, copy=False)
    lost = np.isinf(single) & np.isfinite(values)
    if lost.any():
        raise ValueError(
            f"x has the value {values[lost][0]!r}, which is too large for float32; "
            f"{fmt} is computed in float32"
        )
    float32_max = np.float32(FP32.max)
    largest = _block_maxima(single, fmt, axis)
    finite = np.isfinite(largest)
    tensor_largest = np.max(largest, where=finite, initial=np.float32(0))
    encode_scale = np.float32(1)
    if fmt.tensor_scale and tensor_largest > 0:
        encode_scale = np.minimum(np.float32(fmt.max) / tensor_largest, float32_max)
    decode_scale = np.float32(1) / encode_scale
    scales = largest / np.float32(fmt.element.max) * encode_scale
    scales[~finite] = np.nan
    scales = store(np.minimum(scales, np.float32(fmt.scale.max)), fmt.scale, None)
    factors = np.minimum(np.float32(1) / (scales * decode_scale), float32_max)
    return _Quantized(
        single * _per_value(factors, fmt, axis, values.shape), scales, float(decode_scale)
    )


def _block_maxima(values: Array, fmt: BlockFormat, axis: int) -> Array:
    """max|V| of every block; NaN if the block holds one."""
    xp, length = namespace_of(values), values.shape[axis]
    sizes = xp.abs(values)
    blocks, rest = divmod(length, fmt.size)
    cut = (slice(None),) * axis
    whole = sizes[(*cut, slice(blocks * fmt.size))]
    shape = (*values.shape[:axis], blocks, fmt.size, *values.shape[axis + 1 :])
    maxima: Array = whole.reshape(shape).max(axis=axis + 1)
    if not rest:
        return maxima
    last = sizes[(*cut, slice(blocks * fmt.size, None))].max(axis=axis, keepdims=True)
    both: Array = xp.concatenate([maxima, last], axis)
    return both


def _per_value(scales: Array, fmt: BlockFormat, axis: int, shape: tuple[int, ...]) -> Array:
    """Each block's scale once for each of its values."""
    repeated: Array = namespace_of(scales).repeat(scales, min(fmt.size, shape[axis]), axis=axis)
    return repeated[(slice(None),) * axis + (slice(shape[axis]),)]


def _values(quantized: _Quantized, fmt: BlockFormat, axis: int, dtype: np.dtype[Any]) -> Array:
    """Element × scale × tensor scale: exact in float64, then rounded to ``dtype``."""
    elements, scales, tensor_scale = quantized
    per_value = _per_value(scales.astype(np.float64), fmt, axis, elements.shape)
    with np.errstate(all="ignore"):
        product = elements * per_value * float(tensor_scale)
        return product.astype(dtype, copy=False)
