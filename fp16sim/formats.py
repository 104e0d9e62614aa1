"""What a floating-point format is: a finite set of numbers, named by four facts and a few switches.

A format with precision p and exponents emin..emax holds the numbers ±m·2^(e-p+1) with integer
0 <= m < 2^p and emin <= e <= emax, where the normal numbers have m >= 2^(p-1) and the subnormal
ones have e = emin and a smaller m. Source: IEEE 754-2019, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True)
class Format:
    """A binary floating-point format; attributes are named as in ``numpy.finfo``.

    Raises ValueError if the numbers given do not describe a format.
    """

    #: the name it prints and is looked up by
    name: str
    #: bits in the significand, the implicit leading one included (fp16: 11)
    precision: int
    #: exponent of the smallest normal number, 2^emin (fp16: -14)
    emin: int
    #: exponent of the largest finite number (fp16: 15)
    emax: int
    #: whether the largest exponent code is set aside for infinities and NaNs, as IEEE 754 does
    infinities: bool = True
    #: whether there is a NaN; without infinities it takes only the topmost code (OCP E4M3)
    nans: bool = True

    def __post_init__(self) -> None:
        for field in ("precision", "emin", "emax"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field} must be an integer, got {value!r}")
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be a non-empty string, got {self.name!r}")
        if not 2 <= self.precision <= 53:
            raise ValueError(f"precision must be from 2 to 53 bits, got {self.precision}")
        if not -1022 <= self.emin <= self.emax <= 1023:
            raise ValueError(
                f"emin and emax must satisfy -1022 <= emin <= emax <= 1023, "
                f"got emin={self.emin}, emax={self.emax}"
            )
        if self.infinities and not self.nans:
            raise ValueError("a format with infinities needs NaN (inf - inf): nans must be True")

    @property
    def exponent_bits(self) -> int:
        """Bits in the exponent field."""
        codes = self.emax - self.emin + 2 + self.infinities  # normal binades, subnormals, specials
        return (codes - 1).bit_length()

    @property
    def bits(self) -> int:
        """Bits in all: sign, exponent field and fraction."""
        return 1 + self.exponent_bits + self.precision - 1

    @cached_property
    def max(self) -> float:
        """The largest finite number."""
        codes_lost_to_nan = 1 if self.nans and not self.infinities else 0
        largest_significand = 2**self.precision - 1 - codes_lost_to_nan
        return float(largest_significand) * 2.0 ** (self.emax - self.precision + 1)

    @property
    def min(self) -> float:
        """The most negative finite number."""
        return -self.max

    @cached_property
    def smallest_normal(self) -> float:
        """The smallest positive number with full precision, 2^emin."""
        return 2.0**self.emin

    @cached_property
    def smallest_subnormal(self) -> float:
        """The smallest positive number, 2^(emin-p+1)."""
        return 2.0 ** (self.emin - self.precision + 1)

    @property
    def eps(self) -> float:
        """The distance from 1 to the next larger number, 2^(1-p)."""
        return 2.0 ** (1 - self.precision)

    def contains(self, other: Format) -> bool:
        """Whether every finite number of ``other`` is also a number of this format."""
        return (
            self.precision >= other.precision and self.emin <= other.emin and self.max >= other.max
        )

    def with_range_of(self, other: Format, name: str | None = None) -> Format:
        """This precision with the exponent range of ``other``: it separates rounding from range."""
        return replace(
            self, name=name or f"{self.name}@{other.name}", emin=other.emin, emax=other.emax
        )

    def __repr__(self) -> str:
        return self.name


def _table(*formats: Format) -> dict[str, Format]:
    return {fmt.name: fmt for fmt in formats}


# IEEE 754-2019 table 3.5; bfloat16 and TF32 as NVIDIA's PTX ISA describes them; 8-bit formats from
# the OCP 8-bit Floating Point Specification (OFP8) 1.0; 6- and 4-bit ones from OCP MX 1.0.
FP64 = Format(name="fp64", precision=53, emin=-1022, emax=1023)
FP32 = Format(name="fp32", precision=24, emin=-126, emax=127)
TF32 = Format(name="tf32", precision=11, emin=-126, emax=127)
FP16 = Format(name="fp16", precision=11, emin=-14, emax=15)
BF16 = Format(name="bf16", precision=8, emin=-126, emax=127)
E4M3 = Format(name="e4m3", precision=4, emin=-6, emax=8, infinities=False)
E5M2 = Format(name="e5m2", precision=3, emin=-14, emax=15)
E3M2 = Format(name="e3m2", precision=3, emin=-2, emax=4, infinities=False, nans=False)
E2M3 = Format(name="e2m3", precision=4, emin=0, emax=2, infinities=False, nans=False)
E2M1 = Format(name="e2m1", precision=2, emin=0, emax=2, infinities=False, nans=False)

_NAMED = _table(FP64, FP32, TF32, FP16, BF16, E4M3, E5M2, E3M2, E2M3, E2M1)
#: the formats by the names that NumPy and ml_dtypes give their dtypes
DTYPE_NAMES = {
    "float64": FP64,
    "float32": FP32,
    "float16": FP16,
    "bfloat16": BF16,
    "float8_e4m3fn": E4M3,
    "float8_e5m2": E5M2,
    "float6_e3m2fn": E3M2,
    "float6_e2m3fn": E2M3,
    "float4_e2m1fn": E2M1,
}

FormatLike: TypeAlias = Format | str


def format_of(fmt: FormatLike, argument: str = "fmt") -> Format:
    """The format itself, or the one of that name (case does not matter).

    Raises ValueError for an unknown name, TypeError for anything that is neither.
    """
    if isinstance(fmt, Format):
        return fmt
    if not isinstance(fmt, str):
        raise TypeError(f"{argument} must be a Format or a name, got {fmt!r}")
    found = _NAMED.get(fmt.lower()) or DTYPE_NAMES.get(fmt.lower())
    if found is None:
        allowed = ", ".join([*_NAMED, *DTYPE_NAMES])
        raise ValueError(f"{argument}={fmt!r} is not a known format; known are {allowed}")
    return found


def wider(first: Format, second: Format) -> Format:
    """The format that a result takes when two meet: the one that contains the other, else FP32.

    FP16 and BF16 do not contain each other and give FP32, as in PyTorch's type promotion.
    """
    if first.contains(second):
        return first
    if second.contains(first):
        return second
    return FP32 if FP32.contains(first) and FP32.contains(second) else FP64


def widest(formats: list[Format]) -> Format:
    """``wider`` over a non-empty list."""
    return reduce(wider, formats)
