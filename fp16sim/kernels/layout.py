"""The bits of float32 and float64, and of a format's limits in them: what every executor needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from fp16sim.formats import FP32, FP64, Format
from fp16sim.kernels import reference


@dataclass(frozen=True)
class Carrier:
    """The bit layout of float32 or float64."""

    fmt: Format
    floats: Any
    words: Any

    @cached_property
    def fraction_bits(self) -> int:
        """Bits after the implicit one."""
        return self.fmt.precision - 1

    @cached_property
    def sign_mask(self) -> Any:
        """The sign bit set, all else clear."""
        return self.words(1 << (self.fmt.bits - 1))

    @cached_property
    def exponent_mask(self) -> Any:
        """The exponent field set, all else clear: the bit pattern of infinity."""
        return self.words(((1 << self.fmt.exponent_bits) - 1) << self.fraction_bits)

    def field(self, exponent: int) -> int:
        """The exponent field of 2^exponent."""
        return exponent + self.fmt.emax

    def word(self, value: float) -> Any:
        """The bit pattern of a number."""
        with np.errstate(over="ignore"):
            return self.floats(value).view(self.words)


FLOAT32 = Carrier(FP32, np.float32, np.uint32)
FLOAT64 = Carrier(FP64, np.float64, np.uint64)


def carrier_for(dtype: np.dtype[Any]) -> Carrier:
    """The layout of a float32 or float64 array."""
    return FLOAT32 if dtype == np.float32 else FLOAT64


class Plan(NamedTuple):
    """A format, a mode and the switches as bit patterns of a carrier; magnitudes all."""

    #: significand bits that the carrier has and the format has not
    dropped: Any
    #: exponent field of the smallest normal number
    emin_field: Any
    #: below this the spacing is wider by ``gap`` bits; 0 if the format has subnormals
    gap_below: Any
    gap: Any
    #: the smallest number
    smallest: Any
    #: the largest finite number, and what takes the place of results beyond, by sign
    largest: Any
    beyond_positive: Any
    beyond_negative: Any
    #: what takes the place of infinite inputs
    infinite: Any
    #: results below this are flushed to zero; 0 if none are
    flush_below: Any
    #: the sign bit if zero has a sign, else 0
    zero_sign: Any


@lru_cache(maxsize=1024)
def plan(fmt: Format, mode: str, saturate: bool, subnormals: bool, carrier: Carrier) -> Plan:
    """The constants for rounding to ``fmt``, whose exponents must be the carrier's or fewer."""
    infinite = np.inf if fmt.infinities else np.nan
    if saturate or not fmt.nans:
        infinite = fmt.max
    positive, negative = (
        fmt.max if reference.STOPS_AT_MAX[mode](sign) else infinite for sign in (False, True)
    )
    fields = Plan(
        dropped=carrier.fmt.precision - fmt.precision,
        emin_field=carrier.field(fmt.emin),
        gap_below=0 if fmt.subnormals else carrier.word(fmt.smallest_normal),
        gap=0 if fmt.subnormals else fmt.precision - 1,
        smallest=carrier.word(fmt.smallest_subnormal),
        largest=carrier.word(fmt.max),
        beyond_positive=carrier.word(positive),
        beyond_negative=carrier.word(negative),
        infinite=carrier.word(infinite),
        flush_below=0 if subnormals else carrier.word(fmt.smallest_normal),
        zero_sign=carrier.sign_mask if fmt.signed_zero else 0,
    )
    return Plan(*(carrier.words(field) for field in fields))


def has_magic(fmt: Format, carrier: Carrier) -> bool:
    """Whether nearest-even can be left to the adder (see ``cpu``), and overflow to products."""
    shift = carrier.fmt.precision - fmt.precision
    return shift >= 2 and 0 <= fmt.emax < carrier.fmt.emax - 1 - shift and fmt.subnormals


def has_same_exponents(fmt: Format, carrier: Carrier) -> bool:
    """Whether the format has the carrier's exponents, infinities and NaNs, and fewer bits."""
    return (
        fmt.precision < carrier.fmt.precision
        and (fmt.emin, fmt.emax) == (carrier.fmt.emin, carrier.fmt.emax)
        and fmt.infinities
        and fmt.subnormals
    )
