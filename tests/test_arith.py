"""Arithmetic against exact rational and integer arithmetic, in every mode, with the exceptions."""

import math
import operator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from conftest import ORACLE_DTYPES, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim import arith
from fp16sim.kernels import reference, sticky

MODES = [*reference.GOES_UP]
SMALL = [fs.E4M3, fs.E5M2, fs.E3M2, fs.E2M3, fs.E2M1]
EXACT = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "remainder": lambda x, y: x - y * round(x / y),
}


def finite(fmt):
    return np.array([x for x in fmt if math.isfinite(x)])


def all_pairs(fmt):
    numbers = finite(fmt)
    return np.repeat(numbers, numbers.size), np.tile(numbers, numbers.size)


def true_results(name, x, y):
    """The true results rounded to odd in 53 bits, for operands of at most 16 bits each.

    Sums, products and remainders are exact in float64 there; quotients are integer quotients of 43
    bits and more, with the last bit set if the division leaves a rest.
    """
    with np.errstate(all="ignore"):
        if name == "remainder":
            return np.array(
                [math.remainder(a, b) if b else math.nan for a, b in zip(x, y, strict=True)]
            )
        if name != "divide":
            return {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}[name](x, y)
        (mx, ex), (my, ey) = np.frexp(np.abs(x)), np.frexp(np.abs(y))
        big, small = (mx * 2**53).astype(np.int64), (my * 2**11).astype(np.int64)
        quotient, rest = np.divmod(big, np.maximum(small, 1))
        sign = np.where(np.signbit(x) != np.signbit(y), -1.0, 1.0)
        result = sign * np.ldexp((quotient | (rest != 0)).astype(np.float64), ex - ey - 42)
        return np.where((y == 0) | (x == 0), x / y, result)


def expected_exceptions(truth, fmt, mode, tininess):
    """From the definitions: rounding with wider exponents tells overflow and tininess."""
    result = fs.round_to(truth, fmt, mode)
    known = np.isfinite(truth)
    inexact = known & (result != truth)
    # A format that goes on where this one stops (E4M3's NaN is no reason to stop).
    further = replace(fmt, emax=fmt.emax + 4, infinities=True, nans=True)
    overflow = known & (abs(fs.round_to(truth, further, mode)) > fmt.max)
    deeper = replace(fmt, emin=fmt.emin - 4)
    tiny = truth if tininess == "before" else fs.round_to(truth, deeper, mode)
    underflow = inexact & (abs(tiny) < fmt.smallest_normal)
    return [int(np.count_nonzero(mask)) for mask in (inexact, underflow, overflow)]


class TestAllPairs:
    @pytest.mark.parametrize("fmt", SMALL, ids=repr)
    @pytest.mark.parametrize("name", EXACT)
    @pytest.mark.parametrize("mode", MODES)
    def test_results_and_exceptions(self, fmt, name, mode):
        x, y = all_pairs(fmt)
        truth = true_results(name, x, y)
        if mode == "toward_negative" and name in ("add", "subtract"):
            other = y if name == "add" else -y
            plus = ~np.signbit(x) & ~np.signbit(other) & (x == 0)
            truth = np.where((truth == 0) & ~plus, -0.0, truth)
        for tininess in ("after", "before"):
            with fs.status_flags(tininess) as status:
                result = getattr(arith, name)(x, y, fmt, mode)
            assert_same_bits(result, fs.round_to(truth, fmt, mode))
            counts = [status.inexact, status.underflow, status.overflow]
            assert counts == expected_exceptions(truth, fmt, mode, tininess)
        zero_over_zero = np.count_nonzero((x == 0) & (y == 0))
        poles = np.count_nonzero(y == 0) - zero_over_zero
        assert status.divide_by_zero == (poles if name == "divide" else 0)
        invalid = {"divide": zero_over_zero, "remainder": np.count_nonzero(y == 0)}
        assert status.invalid == invalid.get(name, 0)

    @pytest.mark.parametrize("fmt", [fs.E3M2, fs.E2M3, fs.E2M1], ids=repr)
    @pytest.mark.parametrize("name", EXACT)
    def test_the_integer_oracle_against_fractions(self, fmt, name):
        """Two oracles that share nothing but the rounding."""
        x, y = all_pairs(fmt)
        x, y = x[y != 0], y[y != 0]
        truth = true_results(name, x, y)
        exact = [EXACT[name](Fraction(a), Fraction(b)) for a, b in zip(x, y, strict=True)]
        for mode in MODES:
            rounded = [
                reference.round_to(e or t, fmt, mode) for e, t in zip(exact, truth, strict=True)
            ]
            assert_same_bits(fs.round_to(truth, fmt, mode), np.array(rounded))

    @pytest.mark.parametrize("fmt", [fs.E2M1, fs.Format(name="f", precision=3, emin=-1, emax=1)])
    def test_fma_of_all_triples(self, fmt):
        numbers = finite(fmt)
        x, y, z = (a.ravel() for a in np.meshgrid(numbers, numbers, numbers))
        for mode in MODES:
            result = arith.fma(x, y, z, fmt, mode)
            exact = x * y + z  # few bits: exact in float64
            if mode == "toward_negative":
                plus = ~np.signbit(x * y) & ~np.signbit(z) & (z == 0)
                exact = np.where((exact == 0) & ~plus, -0.0, exact)
            assert_same_bits(result, fs.round_to(exact, fmt, mode))


def fp16_pairs(rng, count):
    """Random patterns, pairs of near exponents (ties, cancellation) and numbers at the edges."""
    random = rng.integers(0, 2**16, (2, count), dtype=np.uint16)
    near = random[0] ^ rng.integers(0, 2**12, count, dtype=np.uint16)
    edges = np.array([0, 1, 2, 0x3FF, 0x400, 0x401, 0x3BFF, 0x3C00, 0x3C01, 0x7BFE, 0x7BFF])
    edges = np.concatenate([edges, edges | 0x8000]).astype(np.uint16)
    second = np.select(
        [np.arange(count) % 3 == 0, np.arange(count) % 3 == 1],
        [near, random[1]],
        edges[random[1] % edges.size],
    )
    x, y = (fs.decode(codes, "fp16").astype(np.float64) for codes in (random[0], second))
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
def test_pairs_of_fp16_against_integers(name, rng):
    """Some 10^5 pairs in every mode here; 10^7 with -m slow."""
    check_fp16_pairs(name, rng, 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
def test_many_pairs_of_fp16_against_integers(name, rng):
    for _ in range(10):
        check_fp16_pairs(name, rng, 1_150_000)


def check_fp16_pairs(name, rng, count):
    x, y = fp16_pairs(rng, count)
    truth = true_results(name, x, y)
    for mode in MODES:
        with fs.status_flags() as status:
            result = getattr(arith, name)(x, y, "fp16", mode)
        expected = fs.round_to(truth, "fp16", mode)
        nonzero = truth != 0  # zeros and their signs: see TestZeros
        assert_same_bits(result[nonzero], expected[nonzero])
        counts = [status.inexact, status.underflow, status.overflow]
        assert counts == expected_exceptions(truth, fs.FP16, mode, "after")


def random_operands(rng, fmt, count):
    """Wide and narrow exponents, few and many bits, so that sums cancel and ties occur."""
    exponents = rng.integers(max(fmt.emin, -1000), min(fmt.emax, 1000), count)
    exponents = np.where(rng.random(count) < 0.5, exponents, rng.integers(-6, 6, count))
    bits = rng.integers(1, 54, count)
    significands = np.floor(np.ldexp(rng.uniform(1, 2, count), bits))
    return np.ldexp(significands, exponents - bits) * rng.choice([-1.0, 1.0], count)


LONG = fs.Format(name="long", precision=52, emin=-300, emax=300)


class TestAgainstFractions:
    """Operands and formats of any width: the exact rational result, rounded by the reference."""

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        "fmt", [fs.FP16, fs.BF16, fs.E4M3, fs.TF32, fs.FP32, LONG, fs.FP64], ids=repr
    )
    def test_binary_operations(self, fmt, mode, rng):
        x, y = random_operands(rng, fmt, 300), random_operands(rng, fmt, 300)
        y[:50] = x[:50] * (1 + rng.integers(-2, 3, 50) * 2.0**-52)
        with np.errstate(all="ignore"):
            for dtype in (np.float32, np.float64):
                a, b = x.astype(dtype), y.astype(dtype)
                keep = np.isfinite(a) & np.isfinite(b) & (b != 0)
                a, b = a[keep], b[keep]
                for name, exact in EXACT.items():
                    with fs.status_flags() as status:
                        result = getattr(arith, name)(a, b, fmt, mode)
                    truth = [
                        exact(Fraction(p), Fraction(q))
                        for p, q in zip(a.tolist(), b.tolist(), strict=True)
                    ]
                    self.compare(truth, result, fmt, mode, status)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("fmt", [fs.FP16, fs.BF16, fs.E5M2, fs.FP32, LONG, fs.FP64], ids=repr)
    def test_fma_and_sqrt(self, fmt, mode, rng):
        x, y, z = (random_operands(rng, fmt, 400) for _ in range(3))
        with np.errstate(all="ignore"):
            z[:100] = -(x[:100] * y[:100])  # only the product's error is left
            z[100:200] = -(x[100:200] * y[100:200]) * (1 + 2.0**-50)
            z[200:300] *= 2.0 ** rng.integers(-80, 80, 100)
            keep = np.isfinite(z)
        x, y, z = x[keep], y[keep], z[keep]
        with fs.status_flags() as status:
            result = arith.fma(x, y, z, fmt, mode)
        rows = zip(x.tolist(), y.tolist(), z.tolist(), strict=True)
        truth = [Fraction(a) * Fraction(b) + Fraction(c) for a, b, c in rows]
        self.compare(truth, result, fmt, mode, status)
        square = abs(x)
        square[:100] = fs.round_to(square[:100], "bf16", "toward_zero") ** 2  # exact roots
        square = square[(square > 0) & np.isfinite(square)]
        result = arith.sqrt(square, fmt, mode)
        roots = [self.root(v) for v in square.tolist()]
        self.compare(roots, result, fmt, mode)

    @staticmethod
    def root(x):
        """The root's first 400 bits, and a bit for the rest, from Python's integers."""
        ratio = Fraction(x) * 4**1500
        floor = math.isqrt(ratio.numerator // ratio.denominator)
        return Fraction(2 * floor + (floor * floor != ratio), 2 * 2**1500)

    @staticmethod
    def compare(truth, result, fmt, mode, status=None):
        expected = [reference.round_to(t, fmt, mode) for t in truth]
        nonzero = np.array([t != 0 for t in truth])
        expected = np.array(expected, result.dtype)
        assert_same_bits(result[nonzero], expected[nonzero])
        assert (result[~nonzero] == 0).all()
        if status is not None:
            finite = [math.isfinite(r) for r in result.tolist()]
            inexact = sum(
                not f or Fraction(r) != t
                for f, r, t in zip(finite, result.tolist(), truth, strict=True)
            )
            assert status.inexact == inexact
            below = Fraction(2) ** fmt.emin
            small = sum(
                abs(t) < below and (not f or Fraction(r) != t)
                for f, r, t in zip(finite, result.tolist(), truth, strict=True)
            )
            assert 0 <= small - status.underflow <= 2  # between before and after
            assert (status.divide_by_zero, status.invalid) == (0, 0)
            if fmt != fs.FP64:  # there is no format of wider range to ask
                TestAgainstFractions.compare_range(truth, result, fmt, mode, status)

    @staticmethod
    def compare_range(truth, result, fmt, mode, status):
        """Overflow and underflow from the definition: what would unlimited exponents give?"""
        further = replace(fmt, emin=-1022, emax=1023, infinities=True, nans=True)
        unlimited = [abs(reference.round_to(t, further, mode)) for t in truth]
        tiny = [
            u < fmt.smallest_normal and not (math.isfinite(r) and Fraction(r) == t)
            for u, r, t in zip(unlimited, result.tolist(), truth, strict=True)
        ]
        assert status.overflow == sum(u > fmt.max for u in unlimited)
        assert status.underflow == sum(tiny)

    @pytest.mark.parametrize("mode", MODES)
    def test_at_the_borders_of_a_format_of_52_bits(self, mode):
        """Where overflow begins and tininess ends; float64 cannot hold what decides."""
        quarters = np.array([1, 2, 3, 4, 5])
        for largest, part in ((LONG.max, 2.0**247), (LONG.smallest_normal, -(2.0**-354))):
            for sign in (1, -1):
                x, y = np.full(5, sign * largest), sign * quarters * part
                truth = [Fraction(a) + Fraction(b) for a, b in zip(x, y, strict=True)]
                for i in range(5):
                    with fs.status_flags() as status:
                        result = arith.add(x[i : i + 1], y[i : i + 1], LONG, mode)
                    self.compare_range(truth[i : i + 1], result, LONG, mode, status)
                    with fs.status_flags("before") as status:
                        arith.add(x[i : i + 1], y[i : i + 1], LONG, mode)
                    tiny = abs(truth[i]) < Fraction(2) ** LONG.emin
                    assert status.underflow == (tiny and status.inexact)

    def test_sums_that_float64_cannot_hold(self):
        """What a float64 (or float32) intermediate rounds twice: the sticky bit matters."""
        tie = 1 + 2.0**-11
        assert arith.add(tie, 2.0**-60, "fp16") == 1 + 2.0**-10
        assert arith.add(tie, -(2.0**-60), "fp16") == 1
        assert arith.add(1.0, 2.0**-1000, "fp16", "toward_positive") == 1 + 2.0**-10
        assert arith.add(1.0, -(2.0**-1074), "bf16", "toward_zero") == 1 - 2.0**-8
        assert arith.fma(2.0**-30, 2.0**-31, tie, "fp16") == 1 + 2.0**-10
        assert arith.multiply(1e-300, 1e-300, "fp16", "toward_positive") == 2.0**-24
        assert arith.multiply(-1e300, 1e300, "fp16", "toward_zero") == -65504


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([fs.FP16, fs.BF16, fs.FP32, fs.FP64]),
    st.sampled_from(MODES),
)
def test_any_operands(x, y, z, fmt, mode):
    truth = Fraction(x) * Fraction(y) + Fraction(z)
    if truth:
        assert_same_bits(
            np.float64(arith.fma(x, y, z, fmt, mode)),
            np.float64(reference.round_to(truth, fmt, mode)),
        )
    if y:
        quotient = Fraction(x) / Fraction(y)
        if quotient:
            assert_same_bits(
                np.float64(arith.divide(x, y, fmt, mode)),
                np.float64(reference.round_to(quotient, fmt, mode)),
            )
        rest = math.remainder(x, y)  # exact
        assert_same_bits(
            np.float64(arith.remainder(x, y, fmt, mode)), np.float64(fs.round_to(rest, fmt, mode))
        )


@given(st.floats(), st.floats(), st.floats())
def test_fp64_is_that_of_the_machine(x, y, z):
    with np.errstate(all="ignore"):
        x, y = np.float64(x), np.float64(y)
        assert_same_bits(arith.add(x, y, "fp64"), x + y)
        assert_same_bits(arith.multiply(x, y, "fp64"), x * y)
        assert_same_bits(arith.divide(x, y, "fp64"), x / y)
        assert_same_bits(arith.sqrt(abs(x), "fp64"), np.sqrt(abs(x)))


@given(st.floats(width=16), st.floats(width=16))
def test_fp16_is_that_of_numpy(x, y):
    with np.errstate(all="ignore"):
        a, b = np.float16(x), np.float16(y)
        for name in ("add", "subtract", "multiply", "divide"):
            expected = np.float32(getattr(np, name)(a, b))
            assert_same_bits(getattr(arith, name)(a, b, "fp16"), expected)


def test_observers_hear_of_every_block(rng):
    x = rng.standard_normal(arith.BLOCK + 7)
    seen = []
    with fs.events.observe(seen.append), fs.events.scope("mine"):
        arith.multiply(x, x, "fp16")
        arith.exp(x, "fp16")
        arith.multiply(np.array([1e300]), 1e-300, "fp16")
    assert {event.origin.scope for event in seen} == {"mine"}
    rounded = [event for event in seen if isinstance(event, fs.events.Rounded)]
    assert [event.origin.op for event in rounded] == ["multiply"] * 2 + ["exp"] * 2 + ["multiply"]
    assert [event.before.size for event in rounded] == [arith.BLOCK, 7, arith.BLOCK, 7, 1]


class TestStochastic:
    def test_unbiased_from_the_exact_result(self):
        third = arith.divide(np.ones(100_000), np.full(100_000, 3.0), "fp16", "stochastic", rng=0)
        low, high = np.unique(third)
        up = (1 / 3 - low) / (high - low)
        assert abs((third == high).mean() - up) < 5 * math.sqrt(up * (1 - up) / third.size)

    @pytest.mark.parametrize("fmt", [fs.BF16, fs.FP64.with_range_of(fs.FP16)], ids=repr)
    def test_reproducible_and_between_the_neighbours(self, fmt, rng):
        x, y = rng.standard_normal((2, 1000))
        first, again = (arith.multiply(x, y, fmt, "stochastic", rng=3) for _ in range(2))
        assert_same_bits(first, again)
        low = arith.multiply(x, y, fmt, "toward_negative")
        high = arith.multiply(x, y, fmt, "toward_positive")
        assert ((first == low) | (first == high)).all()


class TestZeros:
    def test_exact_sums(self):
        """IEEE 754, 6.3: +0 but toward negative, unless both are zeros of one sign."""
        x, y = np.array([1.0, 0.0, -0.0, 0.0, -0.0]), np.array([-1.0, 0.0, -0.0, -0.0, 0.0])
        for fmt in ("fp16", "fp64"):
            for mode in MODES:
                mixed = -0.0 if mode == "toward_negative" else 0.0
                expected = np.array([mixed, 0.0, -0.0, mixed, mixed])
                kind = np.float64
                assert_same_bits(arith.add(x, y, fmt, mode).astype(kind), expected)
                assert_same_bits(arith.subtract(x, -y, fmt, mode).astype(kind), expected)
                assert_same_bits(arith.fma(x, 1.0, y, fmt, mode).astype(kind), expected)

    def test_products_and_quotients_have_the_sign_of_their_operands(self):
        for fmt in ("fp16", "fp64"):
            for mode in MODES:
                assert math.copysign(1, arith.multiply(-0.0, 2.0, fmt, mode)) == -1
                assert math.copysign(1, arith.divide(0.0, -2.0, fmt, mode)) == -1
                assert math.copysign(1, arith.sqrt(-0.0, fmt, mode)) == -1
                assert math.copysign(1, arith.remainder(-4.0, 2.0, fmt, mode)) == -1


class TestSpecials:
    @pytest.mark.parametrize("fmt", ["fp16", "fp64"])
    def test_as_in_the_standard(self, fmt):
        inf = math.inf
        assert math.isnan(arith.subtract(inf, inf, fmt))
        assert math.isnan(arith.multiply(inf, 0.0, fmt))
        assert math.isnan(arith.divide(0.0, 0.0, fmt))
        assert math.isnan(arith.sqrt(-1.0, fmt))
        assert math.isnan(arith.fma(inf, 0.0, 1.0, fmt))
        assert math.isnan(arith.remainder(inf, 1.0, fmt))
        assert math.isnan(arith.remainder(1.0, 0.0, fmt))
        assert arith.remainder(3.0, inf, fmt) == 3
        assert arith.divide(1.0, -0.0, fmt) == -inf
        assert arith.divide(1.0, -inf, fmt) == 0
        assert arith.fma(inf, 2.0, 1.0, fmt) == inf
        assert arith.rsqrt(-0.0, fmt) == -inf
        assert arith.reciprocal(-0.0, fmt) == -inf
        assert arith.log(0.0, fmt) == -inf

    def test_switches_are_those_of_round_to(self):
        assert arith.multiply(300.0, 300.0, "fp16", saturate=True) == 65504
        assert arith.multiply(2.0**-10, 2.0**-6, "fp16", subnormals=False) == 0
        assert arith.exp(12.0, "fp16", saturate=True) == 65504
        assert arith.exp(-12.0, "fp16", subnormals=False) == 0
        assert arith.multiply(2.0**-10, 2.0**-6, "fp64", "toward_zero", subnormals=False) > 0
        assert arith.multiply(1e-200, 1e-120, "fp64", "toward_zero", subnormals=False) == 0
        assert math.isnan(arith.multiply(300.0, 300.0, "e4m3"))


class TestFoundByReview:
    """Each of these was wrong once."""

    def test_fma_of_operands_whose_product_overflows(self):
        inf, huge = math.inf, 1e200
        with fs.status_flags() as status:
            for fmt in ("fp16", "fp64"):
                assert arith.fma(huge, huge, -inf, fmt) == -inf
                assert arith.fma(0.0, 1e308, 0.0, fmt) == 0
                assert arith.fma(0.0, 1e308, 1.0, fmt) == 1
                assert arith.fma(2.0**1000, 2.0**10, -(2.0**1010), fmt) == 0
                exact_zero = arith.fma(1e308, 1.0, -1e308, fmt, "toward_negative")
                assert math.copysign(1, exact_zero) == -1
        assert (status.invalid, status.inexact) == (0, 0)
        with fs.status_flags() as status:
            assert math.isnan(arith.fma(inf, 1.0, -inf, "fp16"))
        assert status.invalid == 1

    @pytest.mark.parametrize("mode", MODES)
    def test_rint_without_subnormals(self, mode, rng):
        """Against a search: the integers that are numbers of the format, and the mode's choice."""
        for precision, emin, emax in ((4, 2, 6), (10, 2, 5), (4, 0, 2), (3, -2, 4), (2, 3, 5)):
            for subnormals in (False, True):
                fmt = fs.Format(
                    name="f", precision=precision, emin=emin, emax=emax, subnormals=subnormals
                )
                integers = np.array([v for v in fmt if math.isfinite(v) and v == int(v)])
                top = integers[-1]
                for x in rng.uniform(-top, top, 40):
                    below, above = integers[integers <= x][-1], integers[integers >= x][0]
                    result = arith.rint(x, fmt, mode)
                    assert result in (below, above)
                    match mode:
                        case "toward_negative":
                            assert result == below
                        case "toward_positive":
                            assert result == above
                        case "ties_to_even" | "ties_to_away":
                            assert abs(result - x) == min(x - below, above - x)
                    if not subnormals:
                        continue
                    flushed = arith.rint(x, fmt, mode, subnormals=False)
                    assert flushed == (0 if abs(result) < fmt.smallest_normal else result)

    def test_functions_beyond_the_range_of_float64(self):
        with fs.status_flags() as status:
            assert arith.exp(1000.0, "fp64") == arith.exp2(1024.0, "fp64") == math.inf
            assert arith.exp(1000.0, "fp64", "toward_zero") == fs.FP64.max
            assert arith.expm1(800.0, "fp64", "toward_negative") == fs.FP64.max
        assert (status.overflow, status.inexact, status.divide_by_zero) == (4, 4, 0)
        with fs.status_flags() as status:
            assert arith.exp(-1000.0, "fp64") == arith.sigmoid(-1000.0, "fp64") == 0
            assert arith.exp(-1000.0, "fp64", "toward_positive") == 5e-324
            assert arith.gelu(-50.0, "fp64", "toward_negative") == -5e-324
            assert math.copysign(1, arith.silu(-1000.0, "fp64")) == -1
        assert (status.underflow, status.inexact, status.invalid) == (5, 5, 0)
        with fs.status_flags() as status:
            arith.log(0.0, "fp64"), arith.exp(-math.inf, "fp64"), arith.silu(0.0, "fp64")
        assert (status.divide_by_zero, status.underflow) == (1, 0)

    def test_the_largest_number_does_not_overflow(self):
        fmt = fs.Format(name="m", precision=53, emin=-10, emax=10, infinities=False)
        for mode in MODES:
            with fs.status_flags() as status:
                fs.round_to(fmt.max, fmt, mode)
            assert status.raised == ()

    def test_what_e8m0_has_no_rounding_of_is_invalid(self):
        with fs.status_flags() as status:
            fs.round_to([0.0, -1.0, 1.0, 1.5, math.nan], "e8m0")
        assert (status.invalid, status.inexact, status.underflow) == (2, 1, 0)

    def test_precision_1(self):
        assert arith.add(1.0, 2.0, "e8m0") == 4

    def test_fma_in_fp64_rounds_once(self):
        x, y, z = 13.0, 922240883399393.0, 1.0
        assert x * y + z == 1.1989131484192108e16
        assert arith.fma(x, y, z, "fp64") == 1.198913148419211e16

    def test_one_bit_too_many_for_the_table(self):
        """Operands with 12 bits are between fp16's entries."""
        x = np.arange(2049, 4096, 2, dtype=np.float32) * np.float32(2.0**-9)
        single, double = (arith.exp(x.astype(kind), "fp16") for kind in (np.float32, np.float64))
        assert_same_bits(single.astype(np.float64), double)


class TestRint:
    @pytest.mark.parametrize("fmt", [*ORACLE_DTYPES, fs.FP32, fs.FP64], ids=repr)
    @pytest.mark.parametrize("mode", MODES)
    def test_against_fractions(self, fmt, mode, rng):
        x = np.concatenate([rng.uniform(-8, 8, 300), rng.integers(-20, 20, 50) / 2, [0.0, -0.0]])
        x = np.concatenate([x, rng.uniform(-2, 2, 100) * min(fmt.max, 1e300)])
        whole = (
            replace(fmt, emin=max(fmt.emin, fmt.precision - 1))
            if fmt.emax >= fmt.precision - 1
            else None
        )
        expected = []
        for v in x.tolist():
            if whole is None:  # E2M3 has all integers up to 7
                v = reference.round_to(v, replace(fs.FP64, emin=52), mode)
            expected.append(reference.round_to(v, whole or fmt, mode))
        assert_same_bits(arith.rint(x, fmt, mode).astype(np.float64), np.array(expected))

    def test_once_not_twice(self):
        """4097.5 lies between 4096 and 4100: rounding to 4098 first would make it a tie."""
        assert arith.rint(4097.9, "fp16") == 4096
        assert arith.rint(2.5, "fp16") == 2
        assert arith.rint(-0.3, "fp16", "toward_positive") == 0
        assert math.copysign(1, arith.rint(-0.3, "fp16")) == -1
        assert arith.rint(0.3, "e8m0") == 1

    def test_exceptions(self):
        with fs.status_flags() as status:
            arith.rint([2.5, 2.0, 1e6, 1e-8, -0.0], "fp16")
        assert (status.inexact, status.overflow, status.underflow) == (3, 1, 0)
        with fs.status_flags() as status:
            assert arith.rint(7.6, "e2m3") == 7.5
        assert (status.inexact, status.overflow) == (1, 1)
        lacks = dict.fromkeys(("infinities", "subnormals", "signed_zero", "signed"), False)
        odd = fs.Format(name="odd", precision=2, emin=0, emax=3, **lacks)
        with pytest.raises(ValueError, match="odd has no zero"):
            arith.rint(1.0, odd)


class TestFunctions:
    """Their values are proved against MPFR in tests/differential."""

    @pytest.mark.parametrize("name", [*sorted(fs.kernels.elementary.FUNCTIONS)])
    def test_table_and_direct_evaluation_agree(self, name):
        """A float64 argument takes the way without a table."""
        options = {"approximate": "tanh"} if name == "gelu_tanh" else {}
        function = getattr(arith, name.removesuffix("_tanh") if options else name)
        for fmt in (fs.FP16, fs.BF16, fs.E4M3):
            x = np.array(list(fmt), np.float32)
            narrow = function(x, fmt, **options)
            assert narrow.dtype == np.float32
            assert_same_bits(narrow.astype(np.float64), function(x.astype(float), fmt, **options))

    def test_values_known_by_heart(self):
        for fmt in ("fp16", "bf16", "fp32", "fp64"):
            assert arith.exp(0.0, fmt) == arith.cos(0.0, fmt) == arith.exp2(0.0, fmt) == 1
            assert arith.log(1.0, fmt) == arith.log1p(0.0, fmt) == arith.expm1(0.0, fmt) == 0
            assert arith.sigmoid(0.0, fmt) == 0.5
            assert arith.exp2(5.0, fmt) == 32
            assert arith.log2(0.125, fmt) == -3
            assert arith.rsqrt(16.0, fmt) == 0.25
            assert arith.tanh(math.inf, fmt) == 1
            assert arith.gelu(-math.inf, fmt) == arith.silu(-math.inf, fmt) == 0
        assert arith.erf(0.5, "fp64") == math.erf(0.5)
        assert arith.softplus(0.0, "fp32") == np.float32(math.log(2))

    @pytest.mark.parametrize("name", ["sin", "tanh", "expm1", "log1p", "erf", "sqrt"])
    def test_odd_or_at_least_the_sign_of_zero(self, name):
        for fmt in ("fp16", "fp32", "fp64"):
            assert math.copysign(1, getattr(arith, name)(-0.0, fmt)) == -1

    def test_exceptions(self):
        with fs.status_flags() as status:
            arith.exp([0.0, 1.0, 100.0, -100.0, math.inf, -math.inf, math.nan], "fp16")
        assert (status.inexact, status.overflow, status.underflow) == (3, 1, 1)
        assert (status.divide_by_zero, status.invalid) == (0, 0)
        with fs.status_flags() as status:
            arith.log([0.0, -1.0, 1.0, math.nan], "bf16")
            arith.rsqrt(0.0, "fp16")
            arith.log1p(-1.0, "fp16")
            arith.sin(math.inf, "fp16")
        assert (status.divide_by_zero, status.invalid, status.inexact) == (3, 2, 0)

    def test_results_can_be_written_to(self):
        """A table must not be handed out."""
        arith.exp(np.float32([0.5]), "fp16")[0] = 7
        assert arith.exp(np.float32(0.5), "fp16") == np.float16(math.exp(0.5))


class TestComparisons:
    def test_exact_between_formats(self):
        x, y = np.float32([0.1, 1.0, np.nan]), np.array([0.1, 1.0, 1.0])
        assert arith.equal(x, y).tolist() == [False, True, False]
        assert arith.greater(x, y).tolist() == [True, False, False]
        assert arith.not_equal(x, y).tolist() == [True, False, True]
        assert arith.less(x, y).tolist() == [False, False, False]
        assert arith.less_equal(x, y).tolist() == [False, True, False]
        assert arith.greater_equal(x, y).tolist() == [True, True, False]
        assert arith.equal(-0.0, 0.0)

    def test_only_ordered_ones_signal_a_quiet_nan(self):
        with fs.status_flags() as status:
            arith.equal(math.nan, 1.0), arith.not_equal(math.nan, 1.0)
        assert status.invalid == 0
        with fs.status_flags() as status:
            arith.less(math.nan, [1.0, 2.0]), arith.greater_equal(1.0, math.nan)
        assert status.invalid == 3


class TestInput:
    def test_dtypes_and_shapes(self):
        single, double = np.float32([[1.5], [2.5]]), np.float64([1.0, 2.0, 3.0])
        assert arith.add(single, single, "fp16").dtype == np.float32
        assert arith.add(single, double, "fp16").dtype == np.float64
        assert arith.add(single, single, "fp64").dtype == np.float64
        assert arith.add(single, double, "fp16").shape == (2, 3)
        assert arith.fma(1.0, 2.0, 3.0, "fp16").shape == ()
        assert isinstance(arith.exp(1.0, "fp16"), np.float64)
        assert arith.exp(np.float32(1), "fp16").dtype == np.float32
        for empty in (np.zeros((0, 3)), np.zeros((0, 3), np.float32)):
            assert arith.exp(empty, "fp16").shape == arith.add(empty, 1.0, "fp16").shape == (0, 3)

    def test_layouts(self, rng):
        x = rng.standard_normal((4, 6)).astype(np.float32)
        for view in (x.T, x[::-2, ::3], x.astype(">f4"), np.asfortranarray(x)):
            plain = np.array(view.tolist(), np.float32)
            assert_same_bits(
                arith.multiply(view, view, "bf16"), arith.multiply(plain, plain, "bf16")
            )
            assert_same_bits(arith.tanh(view, "bf16"), arith.tanh(plain, "bf16"))

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: arith.add([1, 2], 1.0, "fp16"), TypeError, "x has dtype int64"),
            (lambda: arith.add(1.0, "2", "fp16"), TypeError, "y has dtype"),
            (lambda: arith.fma(1.0, 1.0, None, "fp16"), TypeError, "z has dtype object"),
            (lambda: arith.add(np.ones(2), np.ones(3), "fp16"), ValueError, r"x \(2,\), y \(3,\)"),
            (lambda: arith.exp(1.0, "fp17"), ValueError, "fmt='fp17' is not a known format"),
            (lambda: arith.exp(1.0, "fp16", "up"), ValueError, "mode='up' is not known"),
            (lambda: arith.exp(1.0, "fp16", "stochastic"), ValueError, "rng=None is not allowed"),
            (lambda: arith.gelu(1.0, "fp16", approximate="erf"), ValueError, "approximate='erf'"),
            (lambda: arith.sqrt(1, "fp16"), TypeError, r"write 1\.0"),
        ],
    )
    def test_bad_arguments(self, call, error, message):
        with pytest.raises(error, match=message):
            call()

    def test_signalling_nans(self):
        signalling = np.array([0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
        with fs.status_flags() as status:
            for function in (arith.exp, arith.sqrt, arith.rint, fs.round_to):
                assert np.isnan(function(signalling, "fp16")).all()
            assert np.isnan(arith.add(signalling, 1.0, "fp16")).all()
            arith.equal(signalling, 1.0)
        assert status.invalid == 6


class TestSticky:
    """The operations in float64, rounded to odd, against exact arithmetic rounded to odd."""

    @staticmethod
    def check(function, exact, *operands):
        ours = function(*operands)
        rows = zip(*(a.tolist() for a in operands), strict=True)
        truth = [exact(*(Fraction(x) for x in row)) for row in rows]
        expected = [reference.round_to(t, fs.FP64, "to_odd") if t else 0.0 for t in truth]
        assert_same_bits(ours + 0.0, np.array(expected) + 0.0)  # the sign of zero is not theirs

    def operands(self, rng):
        x, y = rng.standard_normal((2, 3000)) * 2.0 ** rng.integers(-40, 40, (2, 3000))
        k = rng.integers(1, 2**26, 500) * 2.0**-52
        # products just beside 1: errors of 2^-104 and up
        return np.concatenate([x, 1 + k]), np.concatenate([y, 1 - k])

    def test_add_and_multiply(self, rng):
        x, y = self.operands(rng)
        self.check(sticky.add, operator.add, x, y)
        self.check(sticky.add, operator.add, x, -x * (1 + 2.0**-52))
        self.check(sticky.multiply, operator.mul, x, y)

    def test_divide(self, rng):
        x, y = self.operands(rng)
        self.check(sticky.divide, operator.truediv, x, y)
        self.check(sticky.divide, operator.truediv, x * y, y)  # as near to a float64 as can be

    def test_sqrt(self, rng):
        x, _ = self.operands(rng)
        x = abs(x)
        self.check(sticky.sqrt, lambda v: TestAgainstFractions.root(v), x)
        self.check(sticky.sqrt, lambda v: TestAgainstFractions.root(v), x * x)

    def test_fma(self, rng):
        x, y = self.operands(rng)
        z = rng.permutation(x) * 2.0 ** rng.integers(-120, 20, x.size)
        self.check(sticky.fma, lambda a, b, c: a * b + c, x, y, z)
        for nearly in (-(x * y), -(x * y) * (1 + 2.0**-52), -(x * y) * 2.0**-53):
            self.check(sticky.fma, lambda a, b, c: a * b + c, x, y, nearly)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_odd_rounding_keeps_sides(x, y):
    """add to odd compares with every float64 as the exact sum does."""
    if sticky.has_room(np.array([x, y])).all() and math.isfinite(x) and math.isfinite(y):
        total = float(sticky.add(np.array([x]), np.array([y]))[0])
        exact = Fraction(x) + Fraction(y)
        if Fraction(total) != exact:
            assert np.float64(total).view(np.int64) & 1
            neighbours = np.nextafter(total, -np.inf), np.nextafter(total, np.inf)
            assert Fraction(float(neighbours[0])) < exact < Fraction(float(neighbours[1]))
