"""What becomes of one number in a format: bits, neighbours, every mode's choice, error in ulps.

From the number as it was written, in exact rational arithmetic: 0.1 means one tenth here, not the
float64 next to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from fp16sim.arguments import one_of
from fp16sim.formats import Format, FormatLike, format_of
from fp16sim.kernels import reference
from fp16sim.rounding import encode

Number: TypeAlias = Fraction | float

#: the modes that pick one number, without chance
MODES = tuple(reference.GOES_UP)


@dataclass(frozen=True)
class Explanation:
    """One number, one format, one mode."""

    number: Number
    fmt: Format
    mode: str
    #: what the mode picks
    result: float
    #: the numbers of the format on either side, or twice the number itself if it is one of them;
    #: beyond the largest what the directed modes make of it
    below: float
    above: float
    #: the spacing of the format around the number: one unit in the last place
    ulp: float
    #: (result - number) / ulp; NaN if the result is infinite or NaN
    error_in_ulps: float
    #: "exact", "rounded", "subnormal" (rounded there), "underflow" (to zero), "overflow", "NaN"
    fate: str

    @property
    def bits(self) -> str:
        """The result's bits as "sign exponent fraction"; empty if the format has no code for it."""
        return bit_fields(self.result, self.fmt)


def parse_number(text: str) -> Number:
    """A number as people write it: "0.1", "1e-7", "1/3", "0x1.8p-3", "2^-24", "inf", "nan".

    Exact, as a Fraction; infinities and NaN as floats. Raises ValueError for anything else.
    """
    cleaned = text.strip().lower()
    if cleaned.lstrip("+-") in ("inf", "infinity", "nan"):
        return float(cleaned)
    try:
        if "x" in cleaned:
            return Fraction(float.fromhex(cleaned))
        if "^" in cleaned:
            base, exponent = cleaned.split("^")
            power = Fraction(base.lstrip("+-")) ** _small_integer(exponent)
            return -power if base.startswith("-") else power
        if "e" in cleaned:
            _small_integer(cleaned.split("e")[1])
        return Fraction(cleaned)
    except (ValueError, ZeroDivisionError, OverflowError):
        allowed = "0.1, 1e-7, 1/3, 0x1.8p-3, 2^-24, inf, nan"
        raise ValueError(
            f"{text!r} is not a number (or an enormous one); allowed are forms like {allowed}"
        ) from None


def _small_integer(text: str) -> int:
    """An exponent; ones so large that the exact number would fill the memory are refused."""
    if abs(int(text)) > 10_000:
        raise ValueError
    return int(text)


def explain(number: Number, fmt: FormatLike, mode: str = "ties_to_even") -> Explanation:
    """Round one number to a format and say everything about it.

    number: a Fraction, or a float (whose own value counts). Raises ValueError for unknown formats
    and modes.
    """
    fmt = format_of(fmt)
    one_of("mode", mode, MODES)
    result = reference.round_to(number, fmt, mode)
    if isinstance(number, float) and not math.isfinite(number):
        fate = "NaN" if math.isnan(result) else "exact" if result == number else "overflow"
        return Explanation(number, fmt, mode, result, result, result, math.nan, math.nan, fate)
    exact = Fraction(number)
    exponent = reference.exponent_of(abs(exact)) if exact else fmt.emin
    ulp = Fraction(2) ** (max(exponent, fmt.emin) - fmt.precision + 1)
    error = (Fraction(result) - exact) / ulp if math.isfinite(result) else None
    return Explanation(
        number,
        fmt,
        mode,
        result,
        below=reference.round_to(number, fmt, "toward_negative"),
        above=reference.round_to(number, fmt, "toward_positive"),
        ulp=float(ulp) if exponent <= 1023 else math.inf,
        error_in_ulps=math.nan if error is None else float(error),
        fate=_fate(exact, result, error, exponent, fmt, mode),
    )


def _fate(
    exact: Fraction, result: float, error: Fraction | None, exponent: int, fmt: Format, mode: str
) -> str:
    # Overflow: the result would be beyond the largest number if the exponent had no upper limit.
    largest_error = Fraction(1, 2) if mode.startswith("ties") else 1
    if error is None or exponent > fmt.emax or abs(error) > largest_error:
        return "overflow"
    if error == 0:
        return "exact"
    if result == 0:
        return "underflow"
    return "subnormal" if abs(result) < fmt.smallest_normal else "rounded"


def bit_fields(value: float, fmt: Format) -> str:
    """The code of a number of the format as "sign exponent fraction"; empty if it has none."""
    try:
        code = int(encode(value, fmt))
    except ValueError:
        return ""
    bits = format(code, f"0{fmt.bits}b")
    sign, rest = bits[: fmt.signed], bits[fmt.signed :]
    return f"{sign} {rest[: fmt.exponent_bits]} {rest[fmt.exponent_bits :]}".strip()
