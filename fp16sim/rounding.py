"""Rounding arrays to a format: checks the arguments, picks a kernel, tells the observers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.arguments import integer, one_of
from fp16sim.backend import Array, RandomLike, carrier_of, generator, namespace_of
from fp16sim.formats import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3,
    E5M2,
    FP16,
    FP32,
    FP64,
    Format,
    FormatLike,
    format_of,
)
from fp16sim.kernels import cpu, reference

#: rounding modes, named as in IEEE 754-2019 section 4.3
MODES = (*reference.GOES_UP, "stochastic")


def round_to(
    x: ArrayLike,
    fmt: FormatLike,
    mode: str = "ties_to_even",
    *,
    saturate: bool = False,
    subnormals: bool = True,
    rng: RandomLike = None,
    random_bits: int | None = None,
) -> Any:
    """Round every value of ``x`` to a number of ``fmt``, by default to the nearest.

    Exact: one rounding, from the input's own value, with subnormal numbers, signed zeros and
    overflow as IEEE 754-2019 says (sections 4.3, 7.4 and 7.5). Never warns.

    x: float16, float32 or float64 array of any shape (or an ``ml_dtypes`` array, a Python float,
        or nested lists of floats, which are float64).
    fmt: a ``Format`` or its name.
    mode: "ties_to_even" (nearest; halfway, to the number with an even significand),
        "ties_to_away" (halfway, away from zero), "toward_zero", "toward_negative",
        "toward_positive", "to_odd" (what is not a number of the format goes to its neighbour with
        an odd significand, and beyond the largest to that), or "stochastic" (up with a probability
        equal to the distance from the number below, in spacings).
    saturate: values beyond ``fmt.max``, infinities included, become ``fmt.max`` with their sign.
        Otherwise they become infinite; in E4M3, which has no infinity, NaN; and formats that have
        neither (E3M2, E2M3, E2M1) always saturate. NaN stays NaN.
    subnormals: if False, results below ``fmt.smallest_normal`` become zero with their sign, as on
        hardware that flushes subnormal results, in every mode.
    rng: for "stochastic", which needs it: a seed or a ``np.random.Generator``. The same seed and
        number of values give the same result.
    random_bits: for "stochastic", how many random bits a value is given, 1 to 32 (32 if None); the
        probability is rounded down to a multiple of 2^-random_bits.

    Returns a new C-contiguous array of the shape of ``x`` with values on the grid of ``fmt``:
    float64 if ``x`` was, else float32; a NumPy scalar for a scalar, as NumPy's functions do.

    Raises ValueError for an unknown format or mode or one that does not fit the dtype, TypeError
    for other dtypes: integers (use ``.astype``), booleans, complex, objects, strings.
    """
    fmt = format_of(fmt)
    one_of("mode", mode, MODES)
    if mode == "stochastic" and rng is None:
        raise ValueError(
            "rng=None is not allowed for mode='stochastic'; give a seed or a Generator"
        )
    if mode != "stochastic" and not (rng is None and random_bits is None):
        raise ValueError(f"rng and random_bits are for mode='stochastic' only, not for {mode!r}")
    random_bits = integer(
        "random_bits", 32 if random_bits is None else random_bits, at_least=1, at_most=32
    )
    values, _ = float_array(x, "x")
    carrier = cpu.carrier_for(values.dtype).fmt
    may_saturate = saturate or not fmt.infinities
    if not carrier.contains(fmt) and (may_saturate or not fmt.contains(carrier)):
        raise ValueError(
            f"fmt={fmt} does not fit {values.dtype} values; pass float64 (x.astype('float64'))"
        )
    draws = None
    if mode == "stochastic":
        draws = generator(rng).integers(0, 2**32, values.size, dtype=np.uint32)
        draws &= np.uint32(2**32 - 2 ** (32 - random_bits))  # the upper bits
    result = _rounded(values, fmt, mode, saturate, subnormals, draws)
    if result is values:
        result = values.copy()
    if events.observed():
        origin = events.Origin(events.current_scope(), "round_to", "value")
        events.announce(events.Rounded(values, result, fmt, origin))
    return result[()] if result.ndim == 0 else result


def store(value: Array, fmt: Format, origin: events.Origin | None) -> Array:
    """Round a freshly computed array to ``fmt``, into the dtype that carries it.

    The engine's door to rounding: no checks, no copy where rounding would change nothing.
    Observers hear of it unless ``origin`` is None.
    """
    value = namespace_of(value).asarray(value)  # 0-d arithmetic leaves scalars
    rounded = _rounded(value, fmt)
    if events.observed() and origin is not None:
        events.announce(events.Rounded(value, rounded, fmt, origin))
    return rounded.astype(carrier_of(fmt), copy=False)


def float_array(x: object, argument: str) -> tuple[Array, Format]:
    """``x`` as a native C-contiguous float32 or float64 array, and the format of its own dtype.

    float16 and the ml_dtypes package's types become float32.

    Raises TypeError, naming ``argument``, for anything that is not floating point, for masked
    arrays (whose masked values have no meaning here), and for GPU arrays.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{argument} is a masked array; pass {argument}.filled(...) instead")
    if type(x).__module__.partition(".")[0] == "cupy":
        raise TypeError(f"{argument} is a CuPy array; emulated rounding runs on NumPy arrays")
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise TypeError(f"{argument} cannot be made an array: {error}") from error
    if array.dtype.type in (np.float32, np.float64):
        native = array.dtype.newbyteorder("=")
        values = np.ascontiguousarray(array, native).reshape(array.shape)
        return values, FP64 if native == np.float64 else FP32
    if array.dtype.type is np.float16 or _is_small_float(array.dtype):
        values = np.ascontiguousarray(array.astype(np.float32)).reshape(array.shape)
        return values, _DTYPE_FORMATS.get(array.dtype.name, FP32)
    hint = ""
    if array.dtype.kind in "iu":
        hint = f"; write {x}.0" if isinstance(x, int) else f"; say {argument}.astype('float32')"
    raise TypeError(
        f"{argument} has dtype {array.dtype}; allowed are float16, float32 and float64{hint}"
    )


#: formats of float16 and of the ml_dtypes that hold one of ours; any other is taken as fp32
_DTYPE_FORMATS = {
    "float16": FP16,
    "bfloat16": BF16,
    "float8_e4m3fn": E4M3,
    "float8_e5m2": E5M2,
    "float6_e3m2fn": E3M2,
    "float6_e2m3fn": E2M3,
    "float4_e2m1fn": E2M1,
}


def _is_small_float(dtype: np.dtype[Any]) -> bool:
    """Whether this is one of the ml_dtypes package's floating-point types."""
    return dtype.type.__module__ == "ml_dtypes" and "float" in dtype.name


def _holds_all(fmt: Format, dtype: np.dtype[Any]) -> bool:
    """Whether every value that ``dtype`` can hold is a number of ``fmt``."""
    return fmt.contains(cpu.carrier_for(dtype).fmt)


def _rounded(
    values: Array,
    fmt: Format,
    mode: str = "ties_to_even",
    saturate: bool = False,
    subnormals: bool = True,
    draws: Array | None = None,
) -> Array:
    if _holds_all(fmt, values.dtype) and not saturate and subnormals:
        return values
    out = np.empty(values.shape, values.dtype)
    flat = np.ascontiguousarray(values).reshape(-1)
    cpu.round_array(flat, out.reshape(-1), fmt, mode, saturate, subnormals, draws)
    return out
