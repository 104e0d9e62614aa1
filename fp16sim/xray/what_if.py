"""What would have become of values in another format, or under another loss scale.

Told from histograms of exponents alone, so that nothing has to be computed again. Exact but for
three things. The values that round up to the smallest normal number (a share of 2^-p of a binade,
for precision p) count as subnormal. Of the binade of the largest number, if one of its values is
too large, the count is that of values spread evenly; and a scale that is no power of two parts
every binade, whose values are taken to be spread evenly as well.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fp16sim.arguments import integer
from fp16sim.backend import Array
from fp16sim.counts import HIGHEST_EXPONENT, LOWEST_EXPONENT, Counts
from fp16sim.formats import Format


def without_scale(counts: Counts, scale: float) -> Counts:
    """Sizes of values that had been multiplied by ``scale``, as they would be without it.

    Of their fates only those are kept that have nothing to do with the format they were stored in.
    """
    exponents, powers = scaled(counts, 1 / scale)
    return Counts(
        total=counts.total,
        zero=counts.zero,
        propagated=counts.nonfinite,
        largest=counts.largest / scale,
        exponents=exponents,
        powers=powers,
    )


def exponent_of(scale: float) -> int:
    """floor(log2(scale)) for a scale above 0."""
    return math.frexp(scale)[1] - 1


def scaled(counts: Counts, factor: float) -> tuple[Array, Array]:
    """The histograms of exponents, and of powers of two, of the values times a factor above 0."""
    up = exponent_of(factor)
    significand = math.ldexp(factor, -up)
    exponents = shifted(counts.exponents, up)
    if significand == 1:
        return exponents, shifted(counts.powers, up)
    # Of [1, 2) times the significand, what was 2 / significand or more is in the next binade.
    beyond = np.rint(exponents * (2 - 2 / significand)).astype(exponents.dtype)
    return exponents - beyond + shifted(beyond, 1), np.zeros_like(exponents)


def shifted(histogram: Array, octaves: int) -> Array:
    """The histogram of values times 2^octaves; what leaves its range goes to its ends."""
    moved, size = np.zeros_like(histogram), len(histogram)
    if octaves >= 0:
        split = max(size - octaves, 0)
        moved[size - split :] = histogram[:split]
        moved[-1] += histogram[split:].sum()
    else:
        split = min(-octaves, size)
        moved[: size - split] = histogram[split:]
        moved[0] += histogram[:split].sum()
    return moved


def recount(values: Counts, fmt: Format, scale: float = 1.0) -> Counts:
    """What would become of the values times ``scale``, rounded to ``fmt`` to nearest even."""
    exponents, powers = scaled(values, scale)
    last = fmt.emin - fmt.precision if fmt.subnormals else fmt.emin - 1  # 2^last is a tie with 0
    top = fmt.emax - LOWEST_EXPONENT
    flushed = int(exponents[: _place(last)].sum()) + int(powers[_place(last)])
    small = int(exponents[: _place(fmt.emin)].sum())
    beyond = int(exponents[top + 1 :].sum())
    limit = fmt.max + 2.0 ** (fmt.emax - fmt.precision)
    if values.largest * scale >= limit:
        binade = int(exponents[top])
        beyond += round(binade * (2.0 - math.ldexp(limit, -fmt.emax)))
    result = Counts(
        total=values.total,
        zero=values.zero,
        propagated=values.nonfinite,
        flushed=flushed,
        subnormal=small - flushed,
        exponents=exponents,
        powers=powers,
        ulps=math.nan,
        worst_ulps=math.nan,
        largest=values.largest * scale,
    )
    # Without an infinity or a NaN the largest number is all there is to go to.
    if fmt.infinities or fmt.nans:
        result.overflowed = beyond
    else:
        result.saturated = beyond
    return result


def _place(exponent: int) -> int:
    return min(max(exponent, LOWEST_EXPONENT), HIGHEST_EXPONENT) - LOWEST_EXPONENT


class Suggestion(NamedTuple):
    """A loss scale, and what becomes of the gradients under it."""

    scale: float
    #: shares of the values other than zero
    flushed: float
    overflowed: float
    #: the flushed share without a scale
    flushed_without: float


def suggest(values: Counts, fmt: Format, headroom: int = 1) -> Suggestion:
    """The largest power of two that keeps all gradients ``headroom`` binades inside the format.

    The rule of Micikevicius et al. (2018), section 3.2: the scale times the largest gradient must
    stay below the largest number. It is below 1 where that leaves less room without a scale.

    headroom: binades, 0 or more. Raises TypeError or ValueError for another one.
    """
    headroom = integer("headroom", headroom, at_least=0)
    if not values.largest:
        raise ValueError("no gradients were seen that are not zero; nothing can be suggested")
    scale = 2.0 ** min(fmt.emax - headroom - exponent_of(values.largest), 127)
    if values.largest * scale * 2.0**headroom > fmt.max:  # in the last binade, and behind its end
        scale /= 2
    without, with_it = recount(values, fmt), recount(values, fmt, scale)
    number = max(with_it.total - with_it.zero, 1)
    return Suggestion(
        scale, with_it.flushed / number, with_it.overflowed / number, without.flushed / number
    )
