"""Rounding arrays to a format: checks the arguments, picks a kernel, tells the observers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from fp16sim import events
from fp16sim.arguments import integer, one_of
from fp16sim.backend import (
    Array,
    Draw,
    RandomLike,
    carried,
    carrier_of,
    generator,
    is_half,
    namespace_of,
    stored_dtype,
)
from fp16sim.formats import DTYPE_NAMES, FP32, Format, FormatLike, format_of
from fp16sim.kernels import cast, executor_for, reference
from fp16sim.kernels.layout import FLOAT64, carrier_for
from fp16sim.status import exceptions

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
        or nested lists of floats, which are float64). A CuPy array is rounded where it is.
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
        hardware that flushes subnormal results, in every mode. (A format *without* subnormals is
        another thing: there the neighbour of zero is ``fmt.smallest_normal``, and the mode picks.)
    rng: for "stochastic", which needs it: a seed or a ``np.random.Generator``. The same seed and
        number of values give the same result, on every executor.
    random_bits: for "stochastic", how many random bits a value is given, 1 to 32 (32 if None); the
        probability is rounded down to a multiple of 2^-random_bits.

    Returns a new C-contiguous array of the shape of ``x`` with values on the grid of ``fmt``:
    float64 if ``x`` was, else float32; a NumPy scalar for a scalar, as NumPy's functions do.
    Subclasses of ``np.ndarray`` (``np.memmap``, say) come back as plain arrays.

    Raises ValueError for an unknown format or mode or one that does not fit the dtype, TypeError
    for other dtypes: integers (use ``.astype``), booleans, complex, objects, strings.
    """
    how = Rounding.of(
        fmt, mode, saturate=saturate, subnormals=subnormals, rng=rng, random_bits=random_bits
    )
    values, _ = float_array(x, "x", gpu=True)
    carrier = carrier_for(values.dtype).fmt
    may_saturate = how.saturate or not how.fmt.infinities
    if not carrier.contains(how.fmt) and (may_saturate or not how.fmt.contains(carrier)):
        raise ValueError(
            f"fmt={how.fmt} does not fit {values.dtype} values; pass float64 (x.astype('float64'))"
        )
    result = how(values)
    if result is values:
        result = values.copy()
    if events.observed():
        origin = events.Origin(events.current_scope(), "round_to", "value")
        raised = exceptions(values, result, how.fmt, how.mode, origin)
        events.announce(raised._replace(invalid=raised.invalid + count_signalling(x)))
        events.announce(events.Rounded(values, result, how.fmt, origin))
    return result[()] if result.ndim == 0 else result


class Switches(TypedDict, total=False):
    """The keywords of ``round_to``, for functions that hand them on."""

    saturate: bool
    subnormals: bool
    rng: RandomLike
    random_bits: int | None


@dataclass(frozen=True)
class Rounding:
    """How to round: format, mode and switches, checked. Called with an array, it rounds it."""

    fmt: Format
    mode: str = "ties_to_even"
    saturate: bool = False
    subnormals: bool = True
    draw: Draw | None = None

    @classmethod
    def of(
        cls,
        fmt: FormatLike,
        mode: str,
        *,
        saturate: bool = False,
        subnormals: bool = True,
        rng: RandomLike = None,
        random_bits: int | None = None,
    ) -> Rounding:
        """From the arguments of ``round_to``, and with its errors."""
        fmt = format_of(fmt)
        one_of("mode", mode, MODES)
        if mode == "stochastic" and rng is None:
            raise ValueError(
                "rng=None is not allowed for mode='stochastic'; give a seed or a Generator"
            )
        if mode != "stochastic" and not (rng is None and random_bits is None):
            raise ValueError(
                f"rng and random_bits are for mode='stochastic' only, not for {mode!r}"
            )
        random_bits = 32 if random_bits is None else random_bits
        random_bits = integer("random_bits", random_bits, at_least=1, at_most=32)
        for name, switch in (("saturate", saturate), ("subnormals", subnormals)):
            if not isinstance(switch, bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {switch!r}")
        draw = _draw(rng, random_bits) if mode == "stochastic" else None
        return cls(fmt, mode, bool(saturate), bool(subnormals), draw)

    def __call__(self, values: Array) -> Array:
        """A float32 or float64 array rounded; itself if there is nothing to do."""
        return _rounded(values, self.fmt, self.mode, self.saturate, self.subnormals, self.draw)


def count_signalling(x: object) -> int:
    """How many signalling NaNs an array of floats has: those with the fraction's top bit clear."""
    if not isinstance(x, np.ndarray | np.generic) or x.dtype.kind != "f" or x.dtype.itemsize > 8:
        return 0  # a Python float cannot tell
    quiet_bit = {2: 9, 4: 22, 8: 51}[x.dtype.itemsize]
    words = np.asarray(x, x.dtype.newbyteorder("=")).view(f"u{x.dtype.itemsize}")
    return int(np.count_nonzero(np.isnan(x) & (words >> quiet_bit & 1 == 0)))


def encode(x: ArrayLike, fmt: FormatLike) -> Any:
    """The bit patterns of numbers of a format: sign, exponent field, fraction, as in memory.

    x: values as for ``round_to``, all of them numbers of ``fmt`` (round first; encoding never
    does). NaN becomes the quiet NaN with the sign bit clear.

    Returns the smallest unsigned dtype that holds ``fmt.bits`` bits, of the shape of ``x``; bits
    above ``fmt.bits`` are zero. Raises ValueError, naming one, for values that the format does not
    have. Source: IEEE 754-2019, section 3.4; OFP8 1.0 and OCP MX 1.0 for those without infinities.
    """
    fmt = format_of(fmt)
    values, _ = float_array(x, "x")
    carrier = carrier_for(values.dtype)
    if fmt.emin < carrier.fmt.emin or not carrier.fmt.contains(fmt):
        carrier = FLOAT64
    with np.errstate(all="ignore"):
        flat = values.reshape(-1).astype(carrier.floats, copy=False)
        magnitude = np.abs(flat)
        words = magnitude.view(carrier.words)
        # The exponent field counts from 1, 0 being that of zero and subnormals, if there are such.
        dropped = carrier.fmt.precision - fmt.precision
        lowest = (carrier.field(fmt.emin) - fmt.signed) << (fmt.precision - 1)
        code = (words >> carrier.words(dropped)) - carrier.words(lowest)
        inexact = words & carrier.words((1 << dropped) - 1) != 0
        small = magnitude < fmt.smallest_normal
        if small.any():
            steps = np.ldexp(magnitude[small], fmt.precision - 1 - fmt.emin)
            code[small] = steps.astype(carrier.words)
            inexact[small] = (steps != np.floor(steps)) | ((steps > 0) & (not fmt.subnormals))
        infinite, nan = np.isinf(flat), np.isnan(flat)
        negative = np.signbit(flat) & ~nan
        bad = (inexact | (magnitude > fmt.max)) & ~infinite & ~nan
        bad |= (infinite & (not fmt.infinities)) | (nan & (not fmt.nans))
        bad |= (flat == 0) & negative & (not fmt.signed_zero)
        bad |= ((flat == 0) | negative) & (not fmt.signed)
    if bad.any():
        raise ValueError(f"x has the value {flat[bad][0].item()!r}, which {fmt} does not have")
    top = (1 << (fmt.bits - fmt.signed)) - 1
    infinity = top >> (fmt.precision - 1) << (fmt.precision - 1)
    quiet = infinity | 1 << (fmt.precision - 2) if fmt.infinities else top
    if fmt.nan_is_minus_zero:
        quiet = 1 << (fmt.bits - 1)
    if fmt.infinities:
        code[infinite] = infinity
    if fmt.nans:
        code[nan] = quiet
    if fmt.signed:
        code |= negative.astype(carrier.words) << carrier.words(fmt.bits - 1)
    result = code.astype(_code_dtype(fmt)).reshape(values.shape)
    return result[()] if result.ndim == 0 else result


def decode(bits: ArrayLike, fmt: FormatLike) -> Any:
    """The numbers that bit patterns of a format stand for.

    bits: an array of unsigned integers, or Python integers >= 0, below 2^fmt.bits.
    Returns float32 if it holds all numbers of the format, else float64. Raises TypeError for other
    dtypes, ValueError for patterns with more bits, and for those that stand for nothing: exponents
    beyond ``fmt.emax`` in formats that do not use all codes, subnormals in formats without them.
    """
    fmt = format_of(fmt)
    codes = np.asarray(bits)
    plain = not isinstance(bits, np.ndarray | np.generic)
    python_integers = plain and (codes.dtype.kind == "i" or codes.size == 0)
    if codes.dtype.kind != "u" and not python_integers:
        raise TypeError(f"bits has dtype {codes.dtype}; allowed are unsigned integers")
    if codes.size and (codes.min() < 0 or codes.max() >> fmt.bits):
        raise ValueError(f"bits has patterns outside of 0 to 2^{fmt.bits} - 1")
    if fmt.bits <= 16 and codes.size:
        result, used = (table[codes] for table in _decoding_tables(fmt))
    else:
        result, used = _decoded(codes, fmt)
    if not used.all():
        first = codes[~used][0]
        raise ValueError(f"bits has the pattern {first:#x}, which {fmt} does not use")
    return result[()] if result.ndim == 0 else result


@lru_cache(maxsize=64)
def _decoding_tables(fmt: Format) -> tuple[Array, Array]:
    return _decoded(np.arange(2**fmt.bits), fmt)


def _decoded(codes: Array, fmt: Format) -> tuple[Array, Array]:
    """What codes stand for, and whether they do."""
    codes = codes.astype(np.uint64)
    fraction_bits = np.uint64(fmt.precision - 1)
    one = np.uint64(1)
    fraction = codes & ((one << fraction_bits) - one)
    fields = np.uint64((1 << fmt.exponent_bits) - 1)
    field = codes >> fraction_bits & fields
    # Field 0 is that of zero and subnormals, if the format has such; 1 is that of 2^emin.
    code = field.astype(np.int64) + (not fmt.signed)
    steps = (fraction + ((code > 0).astype(np.uint64) << fraction_bits)).astype(np.float64)
    with np.errstate(all="ignore"):
        values = np.ldexp(steps, np.maximum(code, 1) - 1 + fmt.emin - (fmt.precision - 1))
    negative = (codes >> np.uint64(fmt.bits - 1) == 1) & fmt.signed
    unused = values > fmt.max
    unused |= (code == 0) & (fraction != 0) & (not fmt.subnormals)
    unused |= negative & (values == 0) & (not fmt.signed_zero)
    if fmt.infinities:
        special = field == fields
        values = np.where(special, np.where(fraction == 0, np.inf, np.nan), values)
        unused &= ~special
    elif fmt.nans:
        top = np.uint64((1 << (fmt.bits - fmt.signed)) - 1)
        nan = negative & (values == 0) if fmt.nan_is_minus_zero else (codes & top) == top
        values = np.where(nan, np.nan, values)
        unused &= ~nan
    values = np.copysign(values, np.where(negative, -1.0, 1.0))
    with np.errstate(all="ignore"):
        return values.astype(carrier_of(fmt)), ~unused


def _code_dtype(fmt: Format) -> np.dtype[Any]:
    """The smallest unsigned dtype for the format's bit patterns."""
    return np.dtype(f"u{max(1, 1 << (fmt.bits - 1).bit_length() >> 3)}")


def store(
    value: Array,
    fmt: Format,
    origin: events.Origin | None,
    sources: tuple[Any, ...] = (),
    *,
    saturate: bool = False,
) -> Array:
    """Round a freshly computed array to ``fmt``, into the dtype that keeps it.

    The engine's door to rounding: no checks, no copy where rounding would change nothing.
    Observers hear of it, and of the ``sources`` that it was computed from, unless ``origin`` is
    None. saturate: as for ``round_to``.
    """
    value = namespace_of(value).asarray(value)  # 0-d arithmetic leaves scalars
    dtype, observed = stored_dtype(fmt, value), origin is not None and events.observed()
    if not observed and dtype.itemsize == 2:
        if value.dtype == dtype:
            return value  # it is on the grid
        if not saturate and namespace_of(value) is not np and value.dtype == np.float32:
            return cast(value, dtype)  # a GPU converts with one rounding, to nearest even
    widens = value.dtype.itemsize == 2 and dtype.itemsize == 4 and is_half(value)
    if widens and not observed and not saturate and fmt == FP32:
        return cast(value, dtype)
    value = carried(value)
    rounded = _rounded(value, fmt, saturate=saturate)
    if observed and origin is not None:
        events.announce(events.Rounded(value, rounded, fmt, origin, sources))
    return rounded.astype(dtype, copy=False)


def float_array(x: object, argument: str, *, gpu: bool = False) -> tuple[Array, Format]:
    """``x`` as a native C-contiguous float32 or float64 array, and the format of its own dtype.

    float16 and the ml_dtypes package's types become float32. gpu: whether a CuPy array is welcome;
    it stays where it is.

    Raises TypeError, naming ``argument``, for anything that is not floating point, for masked
    arrays (whose masked values have no meaning here), and for GPU arrays that are not welcome.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{argument} is a masked array; pass {argument}.filled(...) instead")
    on_gpu = type(x).__module__.partition(".")[0] == "cupy"
    if on_gpu and not gpu:
        raise TypeError(
            f"{argument} is a CuPy array; allowed are NumPy arrays (round_to and the functions of "
            f"one number take both). Say {argument}.get() if it may be copied to the host"
        )
    try:
        array: Any = x if on_gpu else np.asarray(x)
    except ValueError as error:
        raise TypeError(f"{argument} cannot be made an array: {error}") from error
    if array.dtype.type in (np.float32, np.float64):
        dtype = array.dtype.newbyteorder("=")
    elif array.dtype.type is np.float16 or _is_small_float(array.dtype):
        dtype = np.dtype(np.float32)
    else:
        raise TypeError(_not_floating_point(x, array.dtype, argument))
    with np.errstate(invalid="ignore"):  # signalling NaNs
        converted = array.astype(dtype, copy=False)
    values = namespace_of(array).ascontiguousarray(converted).reshape(array.shape)
    # An ml_dtypes type that is none of our formats counts as what it is carried in.
    return values, DTYPE_NAMES.get(array.dtype.name, FP32)


def _not_floating_point(x: object, dtype: np.dtype[Any], argument: str) -> str:
    hint = ""
    if dtype.kind in "iu":
        hint = f"; write {x}.0" if isinstance(x, int) else f"; say {argument}.astype('float32')"
    return f"{argument} has dtype {dtype}; allowed are float16, float32 and float64{hint}"


def _is_small_float(dtype: np.dtype[Any]) -> bool:
    """Whether this is one of the ml_dtypes package's floating-point types."""
    return dtype.type.__module__ == "ml_dtypes" and "float" in dtype.name


def _holds_all(fmt: Format, dtype: np.dtype[Any]) -> bool:
    """Whether every value that ``dtype`` can hold is a number of ``fmt``, infinities included."""
    return fmt.contains(carrier_for(dtype).fmt) and fmt.infinities


def _draw(rng: RandomLike, random_bits: int) -> Draw:
    """Makes random numbers whose lower bits are clear; two from each 64 bits of the generator."""
    bits = generator(rng)
    upper = np.uint32(2**32 - 2 ** (32 - random_bits))

    def draw(count: int) -> Array:
        words = bits.integers(0, 2**64, (count + 1) // 2, dtype=np.uint64)
        draws: Array = words.view(np.uint32)[:count]
        draws &= upper
        return draws

    return draw


def _rounded(
    values: Array,
    fmt: Format,
    mode: str = "ties_to_even",
    saturate: bool = False,
    subnormals: bool = True,
    draw: Draw | None = None,
) -> Array:
    xp = namespace_of(values)
    if _holds_all(fmt, values.dtype) and not saturate and subnormals:
        return values
    if not fmt.signed:
        return _rounded_unsigned(values, fmt, mode, saturate, subnormals, draw)
    carrier = carrier_for(values.dtype).fmt
    if fmt.emin < carrier.emin or not carrier.contains(fmt):  # the kernels want normals normal
        with np.errstate(all="ignore"):  # signalling NaNs
            wide = _rounded(values.astype(np.float64), fmt, mode, saturate, subnormals, draw)
            return wide.astype(values.dtype, copy=False)
    out: Array = xp.empty(values.shape, values.dtype)
    flat = xp.ascontiguousarray(values).reshape(-1)
    executor_for(flat).round_array(flat, out.reshape(-1), fmt, mode, saturate, subnormals, draw)
    return out


def _rounded_unsigned(
    values: Array, fmt: Format, mode: str, saturate: bool, subnormals: bool, draw: Draw | None
) -> Array:
    """As if there were a sign and a zero, and then what would be one of them is put right."""
    xp = namespace_of(values)
    signed = replace(fmt, signed=True, signed_zero=True)
    result = _rounded(values, signed, mode, saturate, subnormals, draw)
    result = xp.maximum(result, result.dtype.type(fmt.smallest_normal))  # a NaN stays NaN
    positive: Array = xp.where(values > 0, result, result.dtype.type(np.nan))
    return positive
