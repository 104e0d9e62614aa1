"""Which inputs a function is tried on: all there are, or those where rounding can go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import numpy as np

from fp16sim.backend import Array, carrier_of
from fp16sim.formats import FP32, FP64, Format
from fp16sim.kernels.layout import carrier_for
from fp16sim.rounding import encode, round_to
from fp16sim.testing import ranks

#: formats of up to so many bits are tried number by number
SMALL = 16
#: how many numbers are drawn from formats that are not small
SAMPLE = 1 << 16
#: how many inputs a function is given at once
CHUNK = 1 << 20


def is_number(x: float, fmt: Format) -> bool:
    """Whether x, which may be infinite or minus zero, is a number of the format."""
    try:
        encode(x, fmt)
    except ValueError:
        return False
    return not math.isnan(x)


def edge_ranks(fmt: Format) -> list[int]:
    """Ranks of finite numbers where something changes, in ascending order."""
    normal, top = ranks.per_binade(fmt), ranks.largest(fmt)
    near = [*range(4), *range(normal - 2, normal + 3), *range(top - 3, top + 1)]
    if fmt.emin <= 0 <= fmt.emax:
        one = ranks.floor(Fraction(1), fmt)
        near += range(one - 1, one + 3)
    return sorted({ranks.clip(rank, fmt, top) for rank in near})


def edges_of(fmt: Format) -> list[float]:
    """Numbers where something changes: see ``strategies.edges``. Simple ones first."""
    found = [float(ranks.number(rank, fmt)) for rank in edge_ranks(fmt)]
    found += [math.inf] * fmt.infinities
    if not fmt.signed:
        return found
    return found + [-x for x in found if x or fmt.signed_zero]


def chunks(selected: Array) -> Iterator[Array]:
    """An array in parts of at most ``CHUNK``."""
    for start in range(0, selected.size, CHUNK):
        yield selected[start : start + CHUNK]


def every_input(source: Format) -> Iterator[Array]:
    """All numbers of a source, in chunks; for fp32 all 2^32 bit patterns, in their order.

    Raises ValueError for sources of more than 32 bits.
    """
    if source.bits > 32:
        raise ValueError(
            f"exhaustive=True is not allowed for source={source}: it has 2^{source.bits} "
            f"bit patterns; allowed are sources of up to 32 bits"
        )
    if source == FP32:
        for start in range(0, 1 << 32, CHUNK):
            yield np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
        return
    first, last = ranks.lowest(source), ranks.largest(source)
    for start in range(first, last + 1, CHUNK):
        place = np.arange(start, min(start + CHUNK, last + 1), dtype=np.int64)
        place = place[(place == 0) | (place >= ranks.smallest(source))]
        yield with_signs(ranks.numbers(place, source), source).astype(carrier_of(source))
    yield specials_of(source)


def count_of_every_input(source: Format) -> int:
    """How many inputs ``every_input`` gives: what its progress is measured by."""
    if source == FP32:
        return 1 << 32
    magnitudes = ranks.largest(source) - ranks.smallest(source) + 1
    zeros = source.signed + source.signed_zero
    return magnitudes * (1 + source.signed) + zeros + len(specials_of(source))


@lru_cache(maxsize=4)
def hard_inputs(fmt: Format, source: Format, random_inputs: int, seed: int) -> Array:
    """Numbers of the source that are hard to round to the format, and random ones; shuffled.

    Numbers and midpoints of the format (a sample of them if it is not small) with the threshold of
    overflow, powers of two, all with the source's neighbours, specials, and random bit patterns: a
    half of them any, a half with exponents in the format's range. No input comes twice. Read-only.
    """
    rng = np.random.default_rng(seed)
    points = np.concatenate([_points(fmt, rng), _powers_of_two(source)])
    if not source.signed:
        points = points[points > 0]
    below = round_to(points, source, "toward_zero", saturate=True).astype(np.float64)
    near = np.unique(ranks.around(ranks.ranks_of(below, source), source))
    found = [
        with_signs(ranks.numbers(near, source), source).astype(carrier_of(source)),
        _random_patterns(source, random_inputs - random_inputs // 2, rng),
        random_numbers(fmt, source, random_inputs // 2, rng),
        specials_of(source),
    ]
    words = carrier_for(carrier_of(source)).words
    patterns = np.unique(np.concatenate([part.view(words) for part in found]))
    shuffled: Array = rng.permutation(patterns).view(carrier_of(source))
    shuffled.flags.writeable = False
    return shuffled


def with_signs(magnitudes: Array, fmt: Format) -> Array:
    """The magnitudes and, if the format has negative numbers, their negatives."""
    if not fmt.signed:
        return magnitudes
    return np.concatenate(
        [magnitudes, -magnitudes if fmt.signed_zero else -magnitudes[magnitudes > 0]]
    )


def specials_of(source: Format) -> Array:
    """Infinities and NaNs of both signs; for fp32 and fp64 quiet and signalling, with payloads."""
    carrier = carrier_for(carrier_of(source))
    infinity = int(carrier.exponent_mask)
    found = [infinity] * source.infinities
    quiet = 1 << (carrier.fraction_bits - 1)
    if source in (FP32, FP64):
        # The last is signalling, and all its payload is in bits that a narrow format drops.
        payloads = [quiet, quiet | 1, 2 * quiet - 1, quiet - 1, quiet >> 1, 1]
        found += [infinity | payload for payload in payloads]
    elif source.nans:
        found.append(infinity | quiet)
    words = np.array(found, dtype=carrier.words)
    negative = words | carrier.sign_mask if source.signed else words[:0]
    both: Array = np.concatenate([words, negative]).view(carrier.floats)
    return both


def _points(fmt: Format, rng: np.random.Generator) -> Array:
    """Magnitudes of the format's numbers and the midpoints above each, as near as float64 is."""
    top, size = ranks.largest(fmt), ranks.per_binade(fmt)
    if fmt.bits <= SMALL:
        places = np.arange(ranks.lowest(fmt), top + 1, dtype=np.int64)
    else:
        drawn = rng.integers(ranks.lowest(fmt), top, SAMPLE, dtype=np.int64, endpoint=True)
        binades = np.arange(0, top, size, dtype=np.int64)[:, None] + np.arange(-2, 3)
        last = np.arange(top - 2, top + 1, dtype=np.int64)
        places = np.concatenate([drawn, binades.ravel(), last])
    places = places[(places >= ranks.smallest(fmt)) | (places == ranks.lowest(fmt))]
    places = np.unique(places[places <= top])
    here = ranks.numbers(places, fmt)
    above = ranks.numbers(np.maximum(places + 1, ranks.smallest(fmt)), fmt)
    middles = here + (above - here) / 2  # no overflow, and exact as far as float64 has the middle
    middles = np.where(np.isfinite(above), middles, here)
    # Without a zero nothing is halfway below the smallest, but there is something below.
    return np.concatenate([here, middles, [fmt.smallest_subnormal / 2]])


def _powers_of_two(fmt: Format) -> Array:
    """One power of two from each binade of the format, subnormal ones included."""
    first = fmt.emin - (fmt.precision - 1 if fmt.subnormals else 0)
    return np.ldexp(1.0, np.arange(first, fmt.emax + 1))


def _random_patterns(source: Format, count: int, rng: np.random.Generator) -> Array:
    """Random bit patterns of the source: NaNs with payloads among them for fp32 and fp64."""
    carrier = carrier_for(carrier_of(source))
    if source not in (FP32, FP64):
        return random_numbers(source, source, count, rng)
    patterns = rng.integers(0, 1 << source.bits, count, dtype=carrier.words)
    return patterns.view(carrier.floats)


def random_numbers(fmt: Format, source: Format, count: int, rng: np.random.Generator) -> Array:
    """Random finite numbers of the source in the range of the format, and a little beyond it."""
    size = ranks.per_binade(source)
    first, last = fmt.emin - fmt.precision - 1, fmt.emax + 2
    high = min((last - source.emin) * size, ranks.largest(source))
    low = min(max((first - source.emin) * size, ranks.lowest(source)), high)
    drawn = rng.integers(low, high, count, dtype=np.int64, endpoint=True)
    drawn[drawn < ranks.smallest(source)] = ranks.lowest(source)
    magnitudes = ranks.numbers(drawn, source).astype(carrier_of(source))
    if not source.signed:
        return magnitudes
    negative = rng.integers(0, 2, count).astype(bool)
    negative &= (magnitudes > 0) | source.signed_zero
    return np.where(negative, -magnitudes, magnitudes)
