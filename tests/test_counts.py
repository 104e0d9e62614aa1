"""What becomes of values, against a brute-force recount."""

import importlib.util
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
import fp16sim.counts
from fp16sim.counts import FATES, LOWEST_EXPONENT, Counts, UpdateCounts
from fp16sim.events import Origin, Rounded, Updated
from fp16sim.kernels.tally import cpu
from fp16sim.kernels.tally.cpu import BLOCK, PAIRS
from fp16sim.xray import what_if

EXECUTORS = [cpu]
if importlib.util.find_spec("numba"):
    from fp16sim.kernels.tally import compiled

    EXECUTORS.append(compiled)

ORIGIN = Origin("", "multiply", "activation")


def counted(before, after, fmt, sources=()):
    """By every executor, which must agree."""
    found = []
    for module in EXECUTORS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fp16sim.counts, "_executor", lambda x, module=module: module)
            found.append(Counts.of(Rounded(before, after, fmt, ORIGIN, sources)))
    for counts in found[1:]:
        assert (counts.exponents == found[0].exponents).all()
        assert (counts.powers == found[0].powers).all()
        ours, theirs = counts.to_dict(), found[0].to_dict()
        assert ours.pop("ulps") == pytest.approx(theirs.pop("ulps"), rel=1e-5)
        assert ours == theirs
    return found[-1]


def rounded(values, fmt, **switches):
    before = np.float32(values)
    return counted(before, fs.round_to(before, fmt, **switches), fmt)


def recount(before, after, fmt):
    """One value at a time, as the definitions say."""
    counts = dict.fromkeys(FATES, 0)
    for b, a in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True):
        if not np.isfinite(b):
            counts["propagated"] += 1
        elif b == 0:
            counts["zero"] += 1
        elif not np.isfinite(a):
            counts["overflowed"] += 1
        elif abs(b) > fmt.max + 2.0 ** (fmt.emax - fmt.precision):
            counts["saturated"] += 1
        elif a == 0:
            counts["flushed"] += 1
        elif abs(a) < fmt.smallest_normal:
            counts["subnormal"] += 1
        else:
            counts["normal"] += 1
    return counts


def errors_in_ulps(before, after, fmt):
    """Exact: distances over the spacing of the format's numbers at ``after``."""
    errors = []
    for b, a in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True):
        if math.isfinite(b) and math.isfinite(a):
            e = max(math.frexp(a)[1] - 1 if a else fmt.emin, fmt.emin)
            spacing = Fraction(2) ** (e - fmt.precision + 1)
            errors.append(abs(Fraction(a) - Fraction(b)) / spacing)
    return errors


@given(
    st.lists(st.floats(width=32), max_size=40),
    st.sampled_from([fs.FP16, fs.BF16, fs.E4M3, fs.E5M2, fs.FP32, fs.FP64, fs.E2M1, fs.E3M2]),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
)
def test_counts_against_a_recount(values, fmt, dtype, saturate, subnormals):
    before = np.array(values, dtype)
    saturate = saturate and fmt is not fs.FP64  # whose largest number float32 cannot hold
    after = np.asarray(fs.round_to(before, fmt, saturate=saturate, subnormals=subnormals))
    counts = counted(before, after, fmt)
    record = counts.to_dict()
    exponents = record.pop("exponents")
    mean, worst = record.pop("ulps"), record.pop("worst_ulps")
    assert record.pop("largest") == abs(before[np.isfinite(before)]).max(initial=0)
    assert record == {"total": len(values)} | recount(before, after, fmt)
    finite = before[np.isfinite(before) & (before != 0)]
    expected, powers = {}, {}
    for significand, e in zip(*(x.tolist() for x in np.frexp(finite)), strict=True):
        expected[e - 1] = expected.get(e - 1, 0) + 1
        if abs(significand) == 0.5:
            powers[e - 1] = powers.get(e - 1, 0) + 1
    assert exponents == expected
    occupied = np.flatnonzero(counts.powers)
    assert {int(i) + LOWEST_EXPONENT: counts.powers[i] for i in occupied} == powers
    if fmt not in (fs.FP32, fs.FP64):  # where the carrier rounds, and its own spacing underflows
        errors = errors_in_ulps(before, after, fmt)
        assert worst == pytest.approx(float(max(errors, default=0)), rel=1e-6)
        assert mean == pytest.approx(float(sum(errors)), rel=1e-6)


def test_blocks_add_up(rng):
    before = (rng.standard_normal(2 * BLOCK + 77) * 1e-6).astype(np.float32)
    before[[3, BLOCK + 1, -1]] = np.inf, np.nan, 1e9
    counts = rounded(before, fs.FP16)
    record = counts.to_dict()
    after = np.asarray(fs.round_to(before, "fp16"))
    assert {name: record[name] for name in FATES} == recount(before, after, fs.FP16)
    errors = errors_in_ulps(before[:1000], after[:1000], fs.FP16)
    assert counts.mean_ulps == pytest.approx(float(sum(errors)) / len(errors), rel=0.1)


@pytest.mark.parametrize("size", [PAIRS - 1, PAIRS, PAIRS + 1, BLOCK, BLOCK + 1])
def test_histograms_of_many_values(size, rng):
    before = (rng.standard_normal(size) * 2.0 ** rng.integers(-40, 40, size)).astype(np.float32)
    before[::7], before[-2:] = 0, (-8, 2.0**-140)  # the last value alone has this exponent
    counts = rounded(before, fs.FP16)
    significands, places = np.frexp(before[before != 0].astype(np.float64))
    for found, of in (
        (counts.exponents, places),
        (counts.powers, places[abs(significands) == 0.5]),
    ):
        expected = dict(zip(*np.unique(of - 1, return_counts=True), strict=True))
        assert {i + LOWEST_EXPONENT: found[i] for i in np.flatnonzero(found)} == expected
    assert counts.zero == np.count_nonzero(before == 0)


def test_an_exact_zero_is_not_flushed():
    counts = rounded([0.0, -0.0, 1e-9, 1.0], fs.FP16)
    assert (counts.zero, counts.flushed, counts.normal) == (2, 1, 1)
    assert counts.exponents[-30 - LOWEST_EXPONENT] == 1
    assert counts.lost == 0.5


def test_nothing_counted_has_no_shares():
    assert np.isnan(Counts().share("flushed"))
    assert np.isnan(Counts().mean_ulps)
    assert Counts().lost == 0


@pytest.mark.parametrize(
    ("values", "sources", "created", "propagated"),
    [
        ([np.inf, np.nan, 1], [[1.0, 2.0]], 2, 0),
        ([np.inf, np.nan, 1], [[1.0, np.nan]], 0, 2),
        ([np.inf, np.nan, 1], [[1.0], [-np.inf]], 1, 1),  # inf - inf: the NaN is new
        ([np.inf, np.nan, 1], [], 0, 2),  # who knows
        ([np.inf], [np.array([7]), [1.0]], 1, 0),  # indices say nothing
        ([1.0], [[np.nan]], 0, 0),
    ],
)
def test_created_here_or_passed_on(values, sources, created, propagated):
    before = np.float32(values)
    given_ = tuple(x if isinstance(x, np.ndarray) else np.float32(x) for x in sources)
    counts = counted(before, fs.round_to(before, "fp16"), fs.FP16, given_)
    assert (counts.created, counts.propagated) == (created, propagated)


def test_infinities_that_become_numbers_are_neither_overflow_nor_normal():
    counts = rounded([np.inf, 1e30, 1, np.nan], fs.FP16, saturate=True)
    assert (counts.nonfinite, counts.saturated, counts.overflowed, counts.normal) == (2, 1, 0, 1)


def test_what_rounds_down_to_the_largest_number_is_normal():
    counts = rounded([65510, -65519], fs.FP16)
    assert (counts.normal, counts.saturated) == (2, 0)


def test_shares_are_of_fates_only():
    with pytest.raises(ValueError, match=r"fate='exponents' is not known; allowed are zero, fl"):
        Counts().share("exponents")


def test_merged_counts_add_up(rng):
    x, y = (rng.standard_normal(100).astype(np.float32) * s for s in (1e-7, 1))
    both, first, second = (rounded(z, fs.FP16) for z in (np.concatenate([x, y]), x, y))
    first.merge(second)
    ours, theirs = first.to_dict(), both.to_dict()
    assert ours.pop("ulps") == pytest.approx(theirs.pop("ulps"))
    assert ours == theirs
    assert (first.powers == both.powers).all()


def test_updates_that_change_nothing(rng):
    before = np.float32([1, 1, 1, 2])
    update = np.float32([0, 1e-9, 0.5, np.nan])
    counts = UpdateCounts()
    counts.add(Updated(before, before - update, update, None))
    assert (counts.total, counts.zero, counts.swamped) == (4, 1, 1)
    counts.merge(counts)
    assert counts.unchanged_share == 0.5


# --- what if -------------------------------------------------------------------------------------

FORMATS = [fs.FP16, fs.BF16, fs.E4M3, fs.E5M2, fs.E2M1, fs.E3M2, fs.FP32]


def magnitudes(values, scale=1.0):
    """As an X-ray has them of values that were multiplied by ``scale``."""
    scaled = np.float32(values) * np.float32(scale)
    return what_if.without_scale(counted(scaled, scaled, fs.FP32), scale)


@given(
    st.lists(
        st.floats(2.0**-40, 2.0**20, width=32) | st.integers(-40, 20).map(lambda e: 2.0**e),
        max_size=30,
    ),
    st.sampled_from(FORMATS),
    st.sampled_from([1.0, 2.0**-7, 2.0**16]),
    st.sampled_from([1.0, 2.0**10]),
)
def test_what_if_against_rounding(values, fmt, scale, was):
    """Exact but for the two edges that the module's text names."""
    x = np.float32(values) * np.float32(scale)
    after = np.asarray(fs.round_to(x, fmt))
    expected = recount(x, after, fmt)
    got = what_if.recount(magnitudes(values, was), fmt, scale)
    assert got.total == len(values)
    assert got.flushed == expected["flushed"]
    rounded_up = int(((x < fmt.smallest_normal) & (after == fmt.smallest_normal)).sum())
    assert got.subnormal == expected["subnormal"] + rounded_up
    top = sum(math.frexp(value)[1] - 1 == fmt.emax for value in x.tolist())
    beyond = expected["overflowed"] + expected["saturated"]
    assert abs(got.overflowed + got.saturated - beyond) <= top
    if x.max(initial=0).astype(np.float64) < fmt.max + 2.0 ** (fmt.emax - fmt.precision):
        assert got.overflowed + got.saturated == beyond == 0


def test_the_top_binade_is_shared_out():
    """E4M3 ends at 448; of 256 to 512, an eighth is too large."""
    values = np.linspace(256, 511.9, 8000)
    got = what_if.recount(magnitudes(values), fs.E4M3)
    assert got.overflowed == pytest.approx((values >= 464).sum(), rel=0.01)


def test_a_suggestion_uses_the_range_and_stays_inside():
    values = [0.3, 2.0**-30, 0.0]
    best = what_if.suggest(magnitudes(values, 8.0), fs.FP16, headroom=0)
    assert best == (2.0**17, 0.0, 0.0, 0.5)
    assert np.float16(0.3 * best.scale) < np.inf
    assert what_if.suggest(magnitudes(values), fs.FP16).scale == 2.0**16
    assert what_if.suggest(magnitudes([1e6]), fs.FP16).scale == 2.0**-5
    with pytest.raises(ValueError, match="no gradients"):
        what_if.suggest(magnitudes([0.0]), fs.FP16)


@pytest.mark.parametrize("was", [1000.0, 1.5, 2.0**-20 * 3])
def test_a_scale_that_is_no_power_of_two(rng, was):
    """Binades are parted by it; of values spread evenly in theirs, nearly the right ones are."""
    values = rng.uniform(1, 2, 20_000) * 2.0 ** rng.integers(-32, -20, 20_000)
    sizes = magnitudes(values, was)
    assert sizes.exponents.sum() == len(values)
    assert sizes.largest == pytest.approx(values.max(), rel=1e-6)
    for scale in (1.0, 3.0, 100.0):
        flushed = (np.float16(values * scale) == 0).sum()
        got = what_if.recount(sizes, fs.FP16, scale)
        assert got.flushed == pytest.approx(flushed, abs=0.015 * len(values))
        assert got.total == len(values)


def test_zeros_of_a_format_without_zero_are_not_flushed():
    """E8M0: zeros and negative numbers become NaN."""
    counts = rounded([0, 0, 1e-45, 2, -1], fs.formats.E8M0)
    assert (counts.zero, counts.flushed, counts.subnormal, counts.normal) == (2, 0, 0, 2)
    assert counts.overflowed == 1


def test_headroom_is_a_number_of_binades():
    for wrong, error in ((1.5, TypeError), ("x", TypeError), (-1, ValueError)):
        with pytest.raises(error, match="headroom"):
            what_if.suggest(magnitudes([1.0]), fs.FP16, wrong)
    assert what_if.suggest(magnitudes([40000.0]), fs.FP16).scale == 0.5
    assert what_if.suggest(magnitudes([40000.0]), fs.FP16, 0).scale == 1
