"""Hypothesis strategies for numbers of a format, and for what is hard to round to one.

``@given(strategies.hard_to_round("fp16"))`` feeds a rounding function with float32 numbers at and
beside the format's numbers and midpoints. Everything is built from the sign, the place of the
exponent and the fraction, so that a counterexample shrinks to a positive number of small magnitude
and few bits. For arrays, give these as ``elements`` to ``hypothesis.extra.numpy.arrays``.

Every function takes any ``Format`` or its name, raises ValueError or TypeError for anything else,
and needs Hypothesis: importing this module without it raises ImportError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

try:
    from hypothesis import strategies as st
except ImportError as missing:
    raise ImportError(
        "fp16sim.testing.strategies needs Hypothesis: pip install 'fp16sim[test]'"
    ) from missing

from fp16sim.formats import FP32, Format, FormatLike, format_of
from fp16sim.rounding import encode
from fp16sim.testing import ranks
from fp16sim.testing.inputs import edge_ranks, edges_of, is_number

#: integers below this are drawn uniformly by Hypothesis
UNIFORM = 1 << 24


def values(
    fmt: FormatLike, *, allow_nan: bool = False, allow_infinity: bool = True
) -> st.SearchStrategy[float]:
    """Numbers of the format as Python floats, both zeros included where there are two.

    allow_nan, allow_infinity: whether NaN and the infinities are drawn if the format has them.

    Every binade is as likely as any other. Example: ``values("e8m0")`` draws powers of two only.
    """
    fmt = format_of(fmt)
    infinite = fmt.infinities and allow_infinity
    top = ranks.largest(fmt) + infinite

    def value(drawn: tuple[bool, int]) -> float:
        negative, rank = drawn
        if rank > ranks.largest(fmt):
            return -math.inf if negative else math.inf
        return _signed(ranks.number(rank, fmt), negative, fmt)

    numbers = st.tuples(_signs(fmt), _ranks(fmt, top)).map(value)
    return numbers | st.just(math.nan) if allow_nan and fmt.nans else numbers


def bit_patterns(fmt: FormatLike) -> st.SearchStrategy[int]:
    """Bit patterns that stand for something, as for ``decode``: numbers, infinities, all NaNs.

    Integers from 0 to 2^fmt.bits - 1. Patterns that the format does not use are not drawn.
    """
    fmt = format_of(fmt)
    codes = values(fmt).map(lambda value: int(encode(value, fmt)))
    if not fmt.nans:
        return codes
    if fmt.infinities:
        infinity = int(encode(math.inf, fmt))
        payloads = st.integers(1, ranks.per_binade(fmt) - 1).map(lambda payload: infinity | payload)
    else:
        payloads = st.just(int(encode(math.nan, fmt)))
    if not fmt.signed or fmt.nan_is_minus_zero:
        return codes | payloads
    signs = st.sampled_from([0, 1 << (fmt.bits - 1)])
    return codes | st.builds(lambda payload, sign: payload | sign, payloads, signs)


def midpoints(fmt: FormatLike) -> st.SearchStrategy[float]:
    """Exact midpoints between neighbouring numbers, as Python floats of either sign.

    The largest is the threshold of overflow: half a spacing beyond ``fmt.max`` (fp16: 65520). The
    smallest is half the smallest positive number if there is a zero.

    Raises ValueError for formats whose midpoints are not float64 numbers, such as fp64.
    """
    fmt = format_of(fmt)
    for rank in (ranks.lowest(fmt), ranks.largest(fmt)):
        if not _is_float(_midpoint(rank, fmt)):
            raise ValueError(f"fmt={fmt} has midpoints that are not float64 numbers")
    drawn = st.tuples(_signs(fmt), _ranks(fmt, ranks.largest(fmt)))
    return drawn.map(lambda pair: _signed(_midpoint(pair[1], fmt), pair[0], fmt))


def near_midpoints(fmt: FormatLike, carrier: FormatLike = FP32) -> st.SearchStrategy[float]:
    """Midpoints of the format and their neighbours in the carrier, finite numbers of the carrier.

    carrier: the format that the function under test takes its inputs in. Where it does not have a
    midpoint, its numbers on both sides are drawn, and the one before these.
    """
    fmt, carrier = format_of(fmt), format_of(carrier, "carrier")
    return _near(_midpoint, fmt, carrier)


def edges(fmt: FormatLike) -> st.SearchStrategy[float]:
    """Numbers of the format where something changes, as Python floats.

    Zeros, the smallest numbers, the last subnormal and the first normal ones, 1 and its neighbours,
    the largest numbers, infinities: of both signs, as far as the format has them.
    """
    fmt = format_of(fmt)
    return st.sampled_from(edges_of(fmt))


def hard_to_round(fmt: FormatLike, carrier: FormatLike = FP32) -> st.SearchStrategy[float]:
    """What one should feed to a function that rounds numbers of the carrier to the format.

    Numbers of the format, their midpoints, the neighbours of all of these in the carrier, edges of
    both formats, and any numbers of the carrier; infinities included, NaN not.

    Example::

        @given(strategies.hard_to_round("bf16"))
        def test_my_rounding(x):
            assert my_rounding(np.float32(x)) == fp16sim.round_to(np.float32(x), "bf16")
    """
    fmt, carrier = format_of(fmt), format_of(carrier, "carrier")
    shared = [x for x in edges_of(fmt) if is_number(x, carrier)]
    return st.one_of(
        st.sampled_from(shared + edges_of(carrier)),
        _near(_midpoint, fmt, carrier),
        _near(ranks.number, fmt, carrier),
        values(carrier),
    )


def _signs(fmt: Format) -> st.SearchStrategy[bool]:
    """Whether negative; shrinks to positive."""
    return st.booleans() if fmt.signed else st.just(False)


def _ranks(fmt: Format, top: int) -> st.SearchStrategy[int]:
    """Ranks of numbers up to ``top``, every exponent as likely as any other."""
    if top < UNIFORM:
        return st.integers(ranks.smallest(fmt) - fmt.signed, top).map(
            lambda rank: rank if rank >= ranks.smallest(fmt) else 0
        )
    # Of so many integers Hypothesis draws mostly small ones; so exponent and fraction are drawn.
    size = ranks.per_binade(fmt)
    places = st.integers(ranks.lowest(fmt) // size, top // size)
    return st.builds(
        lambda place, fraction: ranks.clip(place * size + fraction, fmt, top),
        places,
        st.integers(0, size - 1),
    )


def _midpoint(rank: int, fmt: Format) -> Fraction:
    """Halfway from the number at a rank to the next, be it beyond the largest."""
    return (ranks.number(rank, fmt) + ranks.number(ranks.following(rank, fmt), fmt)) / 2


def _near(
    point: Callable[[int, Format], Fraction], fmt: Format, carrier: Format
) -> st.SearchStrategy[float]:
    """Finite numbers of the carrier at the format's points, and next to them."""

    def neighbour(negative: bool, rank: int, step: int) -> float:
        here = ranks.floor(point(rank, fmt), carrier)
        if step > 0:
            here = ranks.following(here, carrier)
        elif step < 0:
            here = ranks.preceding(here, carrier)
        here = min(here, ranks.largest(carrier))
        return _signed(ranks.number(here, carrier), negative and carrier.signed, carrier)

    # Wrong functions are often wrong at the edges only.
    drawn = _ranks(fmt, ranks.largest(fmt)) | st.sampled_from(edge_ranks(fmt))
    return st.builds(neighbour, _signs(fmt), drawn, st.sampled_from([0, 1, -1]))


def _signed(magnitude: Fraction, negative: bool, fmt: Format) -> float:
    if magnitude == 0 and not fmt.signed_zero:
        return 0.0
    return -float(magnitude) if negative else float(magnitude)


def _is_float(exact: Fraction) -> bool:
    try:
        return float(exact) == exact
    except OverflowError:
        return False
