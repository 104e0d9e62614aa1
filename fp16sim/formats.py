"""What a floating-point format is: a finite set of numbers, named by four facts and a few switches.

A format with precision p and exponents emin..emax holds the numbers ±m·2^(e-p+1) with integer
0 <= m < 2^p and emin <= e <= emax, where the normal numbers have m >= 2^(p-1) and the subnormal
ones have e = emin and a smaller m. Source: IEEE 754-2019, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce
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
    #: whether there is a NaN; without infinities it costs the largest number (OCP E4M3), or takes
    #: the code that minus zero does not need
    nans: bool = True
    #: whether there are numbers between zero and the smallest normal one
    subnormals: bool = True
    #: whether minus zero is another number than zero
    signed_zero: bool = True
    #: whether there are a sign and a zero; OCP's scale format E8M0 has neither
    signed: bool = True

    def __post_init__(self) -> None:
        for field in ("precision", "emin", "emax"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field} must be an integer, got {value!r}")
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name must be a non-empty string, got {self.name!r}")
        lowest = 1 if not self.infinities else 2  # infinity and NaN differ in the fraction
        if not lowest <= self.precision <= 53:
            raise ValueError(f"precision must be from {lowest} to 53 bits, got {self.precision}")
        if not -1022 <= self.emin <= self.emax <= 1023:
            raise ValueError(
                f"emin and emax must satisfy -1022 <= emin <= emax <= 1023, "
                f"got emin={self.emin}, emax={self.emax}"
            )
        if self.infinities and not self.nans:
            raise ValueError("a format with infinities needs NaN (inf - inf): nans must be True")
        for field in ("infinities", "nans", "subnormals", "signed_zero", "signed"):
            if not isinstance(getattr(self, field), bool):
                raise TypeError(f"{field} must be True or False, got {getattr(self, field)!r}")
        if not self.signed and (self.subnormals or self.signed_zero):
            raise ValueError(
                "a format with signed=False has no zero: "
                "subnormals and signed_zero must be False as well"
            )

        if self.bits == 0:
            raise ValueError("a format needs more than one number")

    def __hash__(self) -> int:
        # Formats are keys everywhere; these three tell nearly all of them apart.
        return hash((self.precision, self.emin, self.emax))

    @property
    def nan_is_minus_zero(self) -> bool:
        """Whether NaN has the code of minus zero (the formats called FNUZ)."""
        return self.nans and not self.infinities and self.signed and not self.signed_zero

    @property
    def exponent_bits(self) -> int:
        """Bits in the exponent field."""
        codes = self.emax - self.emin + 1 + self.signed  # normal binades; zero and subnormals
        codes += self.infinities or (self.precision == 1 and self.nans)  # specials
        return (codes - 1).bit_length()

    @property
    def bits(self) -> int:
        """Bits in all: sign, exponent field and fraction."""
        return self.signed + self.exponent_bits + self.precision - 1

    @cached_property
    def max(self) -> float:
        """The largest finite number."""
        nan_is_topmost = self.nans and not self.infinities and not self.nan_is_minus_zero
        # With a fraction NaN takes one number from the last binade; without, a binade of its own.
        largest_significand = 2**self.precision - 1 - (nan_is_topmost and self.precision > 1)
        return float(largest_significand) * 2.0 ** (self.emax - self.precision + 1)

    @property
    def min(self) -> float:
        """The most negative finite number; the smallest positive one if there are no negatives."""
        return -self.max if self.signed else self.smallest_normal

    @cached_property
    def smallest_normal(self) -> float:
        """The smallest positive number with full precision, 2^emin."""
        return 2.0**self.emin

    @cached_property
    def smallest_subnormal(self) -> float:
        """The smallest positive number: 2^(emin-p+1), or 2^emin if there are no subnormals."""
        return 2.0 ** (self.emin - self.precision + 1) if self.subnormals else 2.0**self.emin

    @property
    def eps(self) -> float:
        """The distance from 1 to the next larger number, 2^(1-p)."""
        return 2.0 ** (1 - self.precision)

    @lru_cache(maxsize=1024)  # noqa: B019 - formats are small
    def contains(self, other: Format) -> bool:
        """Whether every finite number of ``other`` is also a number of this format."""
        # Numbers of other below our normal range must be multiples of our subnormals' spacing.
        last_bit = other.emin - other.precision + 1
        lowest = last_bit if other.subnormals else other.emin
        return (
            self.precision >= other.precision
            and self.max >= other.max
            and self.signed >= other.signed
            and self.signed_zero >= other.signed_zero
            and (
                self.emin <= lowest
                or (self.subnormals and self.emin - self.precision + 1 <= last_bit)
            )
        )

    def with_range_of(self, other: Format, name: str | None = None) -> Format:
        """This precision with the exponent range of ``other``: it separates rounding from range."""
        return replace(
            self, name=name or f"{self.name}@{other.name}", emin=other.emin, emax=other.emax
        )

    def __iter__(self) -> Iterator[float]:
        """Every number of the format in ascending order, infinities and -0 included, NaN not.

        Raises ValueError for formats of more than 16 bits.
        """
        if self.bits > 16:
            raise ValueError(
                f"{self} has 2^{self.bits} codes; only up to 2^16 can be iterated over"
            )
        return iter(self._numbers)

    @cached_property
    def _numbers(self) -> tuple[float, ...]:
        per_binade = 2 ** (self.precision - 1)
        lowest_spacing = 2.0 ** (self.emin - self.precision + 1)
        positive = [lowest_spacing * m for m in range(1, per_binade) if self.subnormals]
        for exponent in range(self.emin, self.emax + 1):
            spacing = 2.0 ** (exponent - self.precision + 1)
            positive += [spacing * m for m in range(per_binade, 2 * per_binade)]
        positive = [x for x in positive if x <= self.max] + [math.inf] * self.infinities
        if not self.signed:
            return tuple(positive)
        zeros = [-0.0, 0.0] if self.signed_zero else [0.0]
        return (*(-x for x in reversed(positive)), *zeros, *positive)

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
E8M0 = Format(
    name="e8m0", precision=1, emin=-127, emax=127,
    infinities=False, subnormals=False, signed_zero=False, signed=False,
)  # fmt: skip

_NAMED = _table(FP64, FP32, TF32, FP16, BF16, E4M3, E5M2, E3M2, E2M3, E2M1, E8M0)
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
    "float8_e8m0fnu": E8M0,
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
