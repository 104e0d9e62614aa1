"""Sums, dot products and matrix products by every accumulator, against exact fractions."""

import itertools
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from conftest import EXECUTORS, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim import accumulate, events
from fp16sim.accumulate import compute
from fp16sim.kernels import cpu, reference

MODES = ["ties_to_even", "ties_to_away", "toward_zero", "toward_negative", "toward_positive"]
METHODS = ["sequential", "fma", "pairwise", "kahan"]
FORMATS = [fs.FP16, fs.BF16, fs.TF32, fs.FP32, fs.E4M3, fs.E5M2, fs.E2M1, fs.FP64]


@pytest.fixture(params=EXECUTORS, ids=lambda module: module.__name__.rpartition(".")[2])
def executor(request, monkeypatch):
    """Every executor: plain NumPy, and compiled from the first product on."""
    if request.param is cpu:
        monkeypatch.setattr(compute, "compiled_if_worth", lambda *_: None)
    return request.param


# --- the oracle: exact fractions, special values as floats --------------------------------------


class Oracle:
    """Arithmetic rounded once, from exact fractions; numbers are floats."""

    def __init__(self, fmt, mode="ties_to_even", saturate=False, subnormals=True):
        self.fmt, self.mode = fmt, mode
        self.saturate, self.subnormals = saturate, subnormals

    def rounded(self, exact):
        if isinstance(exact, Fraction):
            exact = exact or 0.0
        result = reference.round_to(exact, self.fmt, self.mode, self.saturate)
        if not self.subnormals and abs(result) < self.fmt.smallest_normal:
            return math.copysign(0.0, result)
        return result

    def multiply(self, x, y):
        if math.isfinite(x) and math.isfinite(y):
            return self.rounded(Fraction(x) * Fraction(y))
        return self.rounded(x * y)

    def add(self, x, y):
        if math.isfinite(x) and math.isfinite(y):
            return self.rounded(Fraction(x) + Fraction(y))
        return self.rounded(x + y)

    def fma(self, x, y, z):
        if all(map(math.isfinite, (x, y, z))):
            return self.rounded(Fraction(x) * Fraction(y) + Fraction(z))
        return self.rounded((x * y if not (math.isfinite(x) and math.isfinite(y)) else 0.0) + z)


def in_order(x, y, method, calc):
    pairs = [(float(p), float(q)) for p, q in zip(x, y, strict=True)]
    if method == "sequential":
        total = 0.0
        for p, q in pairs:
            total = calc.add(total, calc.multiply(p, q))
    elif method == "fma":
        total = 0.0
        for p, q in pairs:
            total = calc.fma(p, q, total)
    elif method == "kahan":
        total = error = 0.0
        for p, q in pairs:
            term = calc.add(calc.multiply(p, q), -error)
            larger = calc.add(total, term)
            error = calc.add(calc.add(larger, -total), -term)
            total = larger
    else:
        level = [calc.multiply(p, q) for p, q in pairs] or [0.0]
        while len(level) > 1:
            odd = level[len(level) // 2 * 2 :]
            level = [calc.add(*pair) for pair in zip(level[::2], level[1::2], strict=False)] + odd
        (total,) = level
    return total


def expected_dot(x, y, method, fmt, result_fmt, block=None, between=fs.FP32, **how):
    calc = Oracle(fmt, **how)
    if block is None:
        total = in_order(x, y, method, calc)
    else:
        outer, total = Oracle(between, **how), 0.0
        for start in range(0, len(x), block):
            part = slice(start, start + block)
            total = outer.add(total, in_order(x[part], y[part], method, calc))
    return Oracle(result_fmt, **how).rounded(float(total) + 0.0)


def same(got, expected):
    """Equal, NaN equal to NaN, +0 not equal to -0."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(expected[expected == 0]))


def numbers(rng, shape, kind):
    x = rng.standard_normal(shape)
    match kind:
        case "wide":
            x *= 2.0 ** rng.uniform(-26, 16, shape)
        case "tiny":
            x *= 2.0 ** rng.uniform(-26, -12, shape)
        case "huge":
            x *= 2.0 ** rng.uniform(8, 15, shape)
        case "special":
            x[rng.random(shape) < 0.1] = np.inf
            x[rng.random(shape) < 0.05] = -np.inf
            x[rng.random(shape) < 0.05] = np.nan
    x[rng.random(shape) < 0.1] = 0
    return x


def float32(x):
    with np.errstate(all="ignore"):
        return x.astype(np.float32)


def half(x):
    with np.errstate(all="ignore"):
        return x.astype(np.float16)


# --- against the oracle --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ordinary", "wide", "tiny", "huge", "special"])
@pytest.mark.parametrize("fmt", FORMATS, ids=repr)
@pytest.mark.parametrize("method", METHODS)
def test_every_order_in_every_format(executor, method, fmt, kind, rng):
    accumulator = fs.Accumulator(method, fmt)
    for k in (0, 1, 2, 3, 7, 33):
        for narrow in (half, float32):  # 11 and 24 significant bits
            x, y = (narrow(numbers(rng, (3, k), kind)) for _ in range(2))
            got = fs.dot(x, y, fmt="fp64", accumulator=accumulator)
            same(got, [expected_dot(p, q, method, fmt, fs.FP64) for p, q in zip(x, y, strict=True)])
            product = fs.matmul(x, y.T, fmt="fp16", accumulator=accumulator)
            same(product, [[expected_dot(p, q, method, fmt, fs.FP16) for q in y] for p in x])


@pytest.mark.parametrize("mode", [*MODES, "to_odd"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fmt", [fs.FP16, fs.BF16, fs.E4M3, fs.FP32], ids=repr)
def test_every_mode(fmt, method, mode, rng):
    x, y = (half(numbers(rng, (4, 9), "wide")) for _ in range(2))
    got = fs.dot(x, y, fmt=fmt, accumulator=fs.Accumulator(method, fmt), mode=mode)
    same(got, [expected_dot(p, q, method, fmt, fmt, mode=mode) for p, q in zip(x, y, strict=True)])


@pytest.mark.parametrize("switches", [{"saturate": True}, {"subnormals": False}], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fmt", [fs.FP16, fs.E5M2, fs.FP32], ids=repr)
def test_saturation_and_flushing(executor, fmt, method, switches, rng):
    for kind in ("huge", "tiny"):
        x, y = (half(numbers(rng, (6, 9), kind)) for _ in range(2))
        got = fs.dot(x, y, fmt=fmt, accumulator=fs.Accumulator(method, fmt), **switches)
        wanted = [
            expected_dot(p, q, method, fmt, fmt, **switches) for p, q in zip(x, y, strict=True)
        ]
        same(got, wanted)


@pytest.mark.parametrize("block", [1, 3, 16, 100])
@pytest.mark.parametrize("between", [fs.FP32, fs.FP64, fs.BF16], ids=repr)
@pytest.mark.parametrize("fmt", [fs.FP16, fs.FP32, fs.FP64], ids=repr)
def test_blocks(executor, fmt, between, block, rng):
    for method in METHODS:
        x, y = (half(numbers(rng, (3, 35), "wide")) for _ in range(2))
        accumulator = fs.Accumulator(method, fmt, block, between)
        wanted = [
            expected_dot(p, q, method, fmt, fs.FP32, block, between)
            for p, q in zip(x, y, strict=True)
        ]
        same(fs.dot(x, y, fmt="fp32", accumulator=accumulator), wanted)
        product = fs.matmul(x, y.T, fmt="fp32", accumulator=accumulator)
        same(np.diagonal(product), wanted)


def test_sums_of_blocks_are_rounded_once(executor):
    x = np.float32([1, 0, 2.0**-24, 2.0**-60])  # the second block's sum has 37 bits
    accumulator = fs.Accumulator("sequential", fs.FP64, 2, fs.FP32)
    assert fs.sum(x, fmt="fp64", accumulator=accumulator) == 1 + 2.0**-23


def test_a_format_of_ones_own(executor, rng):
    for fmt in (
        fs.Format(name="p9", precision=9, emin=-5, emax=6),
        fs.Format(name="wide", precision=20, emin=-300, emax=300),
        fs.Format(name="bare", precision=5, emin=-3, emax=3, infinities=False, nans=False),
        fs.Format(name="low", precision=4, emin=-130, emax=10),
        fs.Format(name="gap", precision=6, emin=-4, emax=5, subnormals=False),
    ):
        x, y = (half(numbers(rng, (4, 12), "ordinary")) for _ in range(2))
        for method in METHODS:
            got = fs.dot(x, y, fmt="fp64", accumulator=fs.Accumulator(method, fmt))
            wanted = [expected_dot(p, q, method, fmt, fs.FP64) for p, q in zip(x, y, strict=True)]
            same(got, wanted)


@pytest.mark.parametrize("fmt", [fs.FP64, fs.FP16], ids=repr)
@pytest.mark.parametrize("method", METHODS)
def test_float64_operands(method, fmt, rng):
    x, y = rng.standard_normal((2, 3, 8)) * 2.0 ** rng.uniform(-10, 10, (2, 3, 8))
    got = fs.dot(x, y, fmt="fp64", accumulator=fs.Accumulator(method, fmt))
    same(got, [expected_dot(p, q, method, fmt, fs.FP64) for p, q in zip(x, y, strict=True)])


@given(st.lists(st.tuples(*[st.integers(0, 2**16 - 1)] * 2), max_size=6), st.sampled_from(METHODS))
def test_any_fp16_numbers(pairs, method):
    x, y = np.array(pairs, np.uint16).reshape(-1, 2).T.copy().view(np.float16)
    got = fs.dot(x, y, fmt="fp64", accumulator=fs.Accumulator(method, fs.FP16))
    same(got, expected_dot(x, y, method, fs.FP16, fs.FP64))


def test_double_rounding_is_not_hidden_in_fused_sums():
    # The product is a midpoint of fp16, and the sum's tiny part decides; in float32 it is lost.
    x, y = np.float16([2.0**-12, 1 + 2.0**-10]), np.float16([2.0**-12, 1 + 2.0**-1])
    for sign in (1, -1):
        got = fs.dot(x * [sign, 1], y, accumulator="fp16-fma")
        same(got, expected_dot(x * [sign, 1], y, "fma", fs.FP16, fs.FP16))


def test_double_rounding_is_not_hidden_in_products_that_float32_cannot_hold(executor):
    # 1985 x 2113 = 2^22 + 1: just above the midpoint 2^-130, by less than float32's last bit.
    deep = fs.Format(name="deep", precision=4, emin=-126, emax=10)
    x, y = np.float32([1985 * 2.0**-70]), np.float32([2113 * 2.0**-82])
    assert fs.dot(x, y, fmt="fp64", accumulator=deep) == deep.smallest_subnormal


@pytest.mark.parametrize(("p", "first", "second"), [(13, 17, 241), (30, 177, 3033169)])
def test_double_rounding_is_not_hidden_in_sums_of_many_bits(executor, p, first, second):
    # The product is 2^(p-1) + 1: the sum is just above a midpoint, by less than the carrier's last
    # bit, be it float32 or float64.
    fmt = fs.Format(name="many", precision=p, emin=-90, emax=20)
    x, y = np.float32([1, first * 2.0**-p]), np.float32([1, second * 2.0 ** (1 - p)])
    assert first * second == 2 ** (p - 1) + 1
    assert fs.dot(x, y, fmt="fp64", accumulator=fmt) == 1 + 2.0 ** (1 - p)


@pytest.mark.parametrize(
    ("fmt", "x", "y"),
    [
        # 2^-100, and then a midpoint above it: float64 holds either, not their sum.
        (fs.BF16, [2.0**-50, 257 * 2.0**-8], [2.0**-50, 1]),
        # 1 and 2^-11 + 2^-57, a product of 24-bit factors: 8392705 x 8384513 = 2^46 + 1.
        (fs.FP16, [1, 8392705 * 2.0**-30], [1, 8384513 * 2.0**-27]),
    ],
)
def test_double_rounding_is_not_hidden_in_fused_sums_that_float64_cannot_hold(executor, fmt, x, y):
    x, y = np.float32(x), np.float32(y)
    got = fs.dot(x, y, fmt="fp64", accumulator=fs.Accumulator("fma", fmt))
    assert got == 1 + fmt.eps


def test_double_rounding_is_not_hidden_in_products_of_13_bit_factors(executor):
    # 26 bits, just beside a midpoint of fp16.
    x, y = np.float32([4445, 6433, 5813]) / 4096, np.float32([5387, 5407, 6243]) / 4096
    for p, q in zip(x, y, strict=True):
        same(fs.dot(p[None], q[None], accumulator="fp16"),
             reference.round_to(Fraction(float(p)) * Fraction(float(q)), fs.FP16))  # fmt: skip


def test_formats_that_reach_below_the_carriers_normal_numbers(executor):
    low = fs.Format(name="low", precision=4, emin=-130, emax=10)
    # 17/16 of 2^-127, a subnormal number of float32 and a normal one of the format: a tie.
    got = fs.dot(np.float32([17 * 2.0**-68]), np.float32([2.0**-63]), fmt="fp64", accumulator=low)
    assert got == 2.0**-127


# --- against NumPy's loops -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ordinary", "wide", "tiny", "huge", "special"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_sequential_is_numpys_loop(executor, dtype, kind, rng):
    name = {np.float16: "fp16", np.float32: "fp32-sequential", np.float64: "fp64-sequential"}[dtype]
    for m, k, n in ((5, 70, 300), (300, 64, 3), (1, 40, 1)):
        with np.errstate(all="ignore"):
            a, b = (numbers(rng, s, kind).astype(dtype) for s in ((m, k), (k, n)))
            total = np.zeros((m, n), dtype)
            for i in range(k):
                total = total + a[:, i, None] * b[i]
            sums = np.add.accumulate(a, axis=1, dtype=dtype)[:, -1]
        fmt = "fp64" if dtype is np.float64 else "fp32"
        same(fs.matmul(a, b, fmt=fmt, accumulator=name), total)
        same(fs.sum(a, axis=1, fmt=fmt, accumulator=name), sums + 0)


def test_results_do_not_depend_on_tiles(executor, monkeypatch, rng):
    a, b = half(numbers(rng, (2, 13, 41), "wide")), half(numbers(rng, (41, 17), "wide"))
    cases = list(itertools.product(["fp16", "fp16-pairwise", "fp16-kahan", "exact"], [None, 6]))
    cases = [(name, block) for name, block in cases if not (name == "exact" and block)]

    def results():
        return [
            function(a, *rest, accumulator=name, block=block)
            for name, block in cases
            for function, rest in ((fs.matmul, (b,)), (fs.sum, ()))
        ]

    before = results()
    for setting in ("TILE", "PANEL", "RUN", "EXACT_TILE"):
        monkeypatch.setattr(compute, setting, 7)
    for one, other in zip(before, results(), strict=True):
        assert_same_bits(one, other)


# --- exact ---------------------------------------------------------------------------------------


def exactly(x, y, fmt, mode="ties_to_even", divisor=1):
    exact = sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(x, y, strict=True)), 0)
    return reference.round_to(Fraction(exact) / divisor or 0.0, fmt, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fmt", [fs.FP16, fs.BF16, fs.FP32, fs.FP64, fs.E2M1], ids=repr)
def test_exact_is_rounded_once(fmt, mode, rng):
    for kind, narrow in itertools.product(("ordinary", "wide"), (half, float32, np.float64)):
        x, y = (narrow(numbers(rng, (3, 30), kind)) for _ in range(2))
        got = fs.matmul(x, y.T, fmt=fmt, accumulator="exact", mode=mode)
        same(got, [[exactly(p, q, fmt, mode) for q in y] for p in x])
        same(fs.dot(x, y, fmt=fmt, accumulator="exact", mode=mode), np.diagonal(got))


def test_exact_with_ranges_that_need_fractions(rng):
    x, y = rng.standard_normal((2, 3, 9)) * 2.0 ** rng.uniform(-500, 500, (2, 3, 9))
    for fmt in (fs.FP16, fs.FP64):
        got = fs.dot(x, y, fmt=fmt, accumulator="exact")
        same(got, [exactly(p, q, fmt) for p, q in zip(x, y, strict=True)])


def test_exact_long_and_cancelling(rng):
    length = 9000  # several runs of carrying
    x, y = (half(numbers(rng, length, "tiny")) for _ in range(2))
    order = rng.permutation(2 * length + 1)
    factors = np.concatenate([x, -x, [np.float16(2.0**-24)]])[order]
    others = np.concatenate([y, y, [np.float16(2.0**-10)]])[order]
    assert fs.dot(factors, others, fmt="fp32", accumulator="exact") == 2.0**-34
    full = np.full(16_001, 2.0**20 - 1)  # every digit as large as can be
    assert fs.dot(full, full, fmt="fp32", accumulator="exact") == fs.round_to(
        float(16_001 * (2**20 - 1) ** 2), "fp32"
    )
    wide = fs.Format(name="wide", precision=50, emin=-300, emax=300)
    got = fs.dot(full[:8_193], full[:8_193], fmt=wide, accumulator="exact")
    assert got == exactly(full[:8_193], full[:8_193], wide)
    ones = np.ones(100_001, np.float16)
    assert fs.sum(ones, fmt="fp32", accumulator="exact") == 100_001


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0, 2048), (2.0**-24, 2050), (-(2.0**-24), 2048), (2.0**-120, 2050), (-(2.0**-120), 2048)],
)
def test_exact_at_a_tie(last, expected):
    assert fs.sum(np.float64([2048, 1, last]), accumulator="exact") == expected


def test_exact_with_infinities_and_nans():
    x = np.float32([[np.inf, 1], [np.inf, -np.inf], [np.inf, 0], [np.nan, 1], [1, 1]])
    y = np.float32([[1, 1], [1, 1], [0, 1], [1, 1], [3e38, 3e38]])
    for fmt in ("fp16", "fp64"):
        got = fs.dot(x, y, fmt=fmt, accumulator="exact")
        same(got[:4], [np.inf, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("fmt", ["fp16", "fp32", "fp64"])
def test_means(fmt, rng):
    x = float32(numbers(rng, (5, 7), "ordinary"))
    got = fs.mean(x, axis=1, fmt=fmt, accumulator="exact")
    same(got, [exactly(row, np.ones(7), fs.formats.format_of(fmt), divisor=7) for row in x])
    for name in ("exact", "fp32", "fp16"):
        assert np.isnan(fs.mean(np.zeros((0, 2)), axis=0, fmt=fmt, accumulator=name)).all()
    # The sum, 2048 instead of 3000, divided and rounded once.
    assert fs.mean(np.ones(3000), fmt=fmt, accumulator="fp16") == fs.round_to(2048 / 3000, fmt)


# --- what everybody should see once --------------------------------------------------------------


def test_ones_stall_in_fp16_unless_they_are_ordered_better():
    ones = np.ones(5000)
    assert fs.sum(ones, accumulator="fp16") == 2048
    for better in ("fp32", "pairwise", "kahan", "exact", "fp32-sequential"):
        assert fs.sum(ones, accumulator=better) == 5000
    assert fs.sum(ones, accumulator="fp16", block=16) == 5000


def test_stochastic_sums_do_not_stall():
    ones = np.ones((64, 4096), np.float32)
    sums = fs.sum(ones, axis=1, accumulator="fp16", mode="stochastic", rng=0)
    again = fs.sum(ones, axis=1, accumulator="fp16", mode="stochastic", rng=0)
    other = fs.sum(ones, axis=1, accumulator="fp16", mode="stochastic", rng=1)
    assert_same_bits(sums, again)
    assert (sums != other).any()
    assert (sums == fs.round_to(sums, "fp16")).all()
    assert abs(sums.mean() - 4096) < 4 * sums.std() / 8
    assert 20 < sums.std() < 100  # each of the last 2048 steps is 0 or 2
    with pytest.raises(ValueError, match="rng=None"):
        fs.sum(ones, accumulator="fp16", mode="stochastic")


# --- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "fp16", "pairwise", "exact", fs.tensorcore.H100])
def test_shapes_as_numpys(name, rng):
    for left, right in (
        ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 2, 3), (3, 4)), ((3,), (5, 3, 4)),
        ((5, 1, 2, 3), (6, 3, 4)), ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3), (3, 0)),
        ((0, 2, 3), (3, 2)),
    ):  # fmt: skip
        x, y = half(rng.standard_normal(left)), half(rng.standard_normal(right))
        got = fs.matmul(x, y, accumulator=name)
        wanted = np.matmul(x.astype(np.float64), y.astype(np.float64))
        assert np.shape(got) == wanted.shape
        assert isinstance(got, np.float32 if wanted.ndim == 0 else np.ndarray)
        np.testing.assert_allclose(got, wanted, rtol=0.01, atol=0.01)


def test_sums_over_axes(rng):
    x = half(rng.standard_normal((2, 3, 4, 5)))
    for axis, keepdims in itertools.product((None, 0, -1, (0, 2), (-1, 1), ()), (False, True)):
        for name in ("fp32", "fp16", "exact"):
            got = fs.sum(x, axis=axis, keepdims=keepdims, accumulator=name)
            wanted = x.astype(np.float64).sum(axis=axis, keepdims=keepdims)
            assert np.shape(got) == wanted.shape
            np.testing.assert_allclose(got, wanted, atol=0.05)
    assert isinstance(fs.sum(x), np.float32)


def test_dtypes(rng):
    x = rng.standard_normal((3, 3))
    for narrow in (np.float16, np.float32, ml_dtypes.bfloat16):
        assert fs.matmul(x.astype(narrow), x.astype(narrow)).dtype == np.float32
        assert fs.matmul(x.astype(narrow), x.astype(narrow), fmt="fp64").dtype == np.float64
    assert fs.matmul(half(x).astype(np.float64), half(x)).dtype == np.float64
    assert fs.sum([1.0, 2.0]) == 3.0
    big = half(x).astype(">f4")
    assert_same_bits(fs.matmul(big, big, accumulator="fp16"),
                     fs.matmul(half(x), half(x), accumulator="fp16"))  # fmt: skip


def test_operands_stay_as_they_were_whatever_their_strides(executor, rng):
    a, b = half(rng.standard_normal((40, 60)))[::-2, ::3], half(rng.standard_normal((20, 30))).T
    a, b = a.astype(np.float32), np.asfortranarray(b.astype(np.float32))[:20]
    before = a.copy(), b.copy()
    got = fs.matmul(a, b, accumulator="fp16")
    assert_same_bits(got, fs.matmul(a.copy(), np.ascontiguousarray(b), accumulator="fp16"))
    assert (a == before[0]).all()
    assert (b == before[1]).all()


def test_out(rng):
    a, b = half(rng.standard_normal((4, 5))), half(rng.standard_normal((5, 6)))
    for name in ("fp32", "fp16"):
        wanted = fs.matmul(a, b, accumulator=name)
        for out in (np.empty((4, 6), np.float32), np.empty((6, 4), np.float32).T):
            assert fs.matmul(a, b, accumulator=name, out=out) is out
            assert_same_bits(out, wanted)
    square = rng.standard_normal((5, 5)).astype(np.float32)
    wanted = fs.matmul(square, square)
    assert_same_bits(fs.matmul(square, square, out=square), wanted)
    vector = np.empty(4, np.float32)
    assert fs.matmul(a, b[:, 0], out=vector) is vector
    read_only = np.empty((4, 6), np.float32)
    read_only.flags.writeable = False
    for bad, message in (
        (np.empty((4, 5), np.float32), r"shape \(4, 5\).*shape \(4, 6\)"),
        (np.empty((4, 6)), "float64.*float32"),
        (read_only, "read-only"),
    ):
        with pytest.raises(ValueError, match=message):
            fs.matmul(a, b, out=bad)
    with pytest.raises(TypeError, match="out must be a numpy array"):
        fs.matmul(a, b, out=[1.0])


def test_one_event_for_what_is_stored_and_none_for_the_steps(rng):
    x = half(rng.standard_normal((4, 5)))
    for options in ({}, {"accumulator": "fp16"}, {"accumulator": "fp16", "mode": "toward_zero"},
                    {"accumulator": "exact"}, {"accumulator": fs.tensorcore.A100}):  # fmt: skip
        heard = []
        with events.observe(heard.append), events.scope("here"):
            result = fs.matmul(x, x.T, **options)
        (event,) = heard
        assert event.origin == events.Origin("here", "matmul", "value")
        assert_same_bits(event.after.astype(np.float32), result)


# --- refusals ------------------------------------------------------------------------------------

ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fs.sum(ONES, accumulator="fp17"), ValueError, "accumulator='fp17' is not known"),
        (lambda: fs.sum(ONES, accumulator="fp16-tree"), ValueError, "'fp16-tree'.*-pairwise"),
        (lambda: fs.sum(ONES, accumulator=16), TypeError, "accumulator must be.*16"),
        (lambda: fs.sum(ONES, accumulator="fp16", block=0), ValueError, "block=0"),
        (lambda: fs.sum(ONES, accumulator="fp16", block=2.5), TypeError, "block must be.*2.5"),
        (lambda: fs.sum(ONES, accumulator="exact", block=2), ValueError, "block=2.*'exact'"),
        (lambda: fs.sum(ONES, accumulator="fp32", block=2), ValueError, "block=2.*'any'"),
        (lambda: fs.sum(ONES, accumulator=fs.tensorcore.H100), ValueError, "H100.*cannot sum"),
        (lambda: fs.matmul(ONES, ONES.T, accumulator=fs.tensorcore.H100, block=2), ValueError,
         "block=2.*H100"),
        (lambda: fs.matmul(ONES, ONES.T, fmt="fp32", accumulator=fs.tensorcore.H100), ValueError,
         "fmt=fp32 is not a format that H100 takes"),
        (lambda: fs.matmul(ONES / 3, ONES.T, accumulator=fs.tensorcore.H100), ValueError,
         "a has values that fp16 does not have"),
        (lambda: fs.Accumulator("any", fs.FP16), ValueError, "fmt=fp16.*'any'"),
        (lambda: fs.Accumulator("tree"), ValueError, "method='tree'"),
        (lambda: fs.matmul(np.float64([[0.1]]), [[1.0]]), ValueError, "accumulate in fp64"),
        (lambda: fs.matmul(ONES, ONES), ValueError, "a has 3 columns and b 2 rows"),
        (lambda: fs.matmul(1.0, ONES), ValueError, "at least one axis"),
        (lambda: fs.matmul(np.ones((2, 1, 1)), np.ones((3, 1, 1))), ValueError, "do not broadcast"),
        (lambda: fs.dot(ONES, ONES.T), ValueError, "a last axis of one length"),
        (lambda: fs.dot(np.ones((2, 3)), np.ones((4, 3))), ValueError, "do not broadcast"),
        (lambda: fs.matmul(np.ones((2, 2), int), ONES), TypeError, "a has dtype int64"),
        (lambda: fs.sum(ONES, axis=2), ValueError, "axis=2"),
        (lambda: fs.sum(ONES, axis=(0, -2)), ValueError, "names an axis twice"),
        (lambda: fs.sum(ONES, axis=1.0), TypeError, "axis must be an integer"),
        (lambda: fs.sum(ONES, mode="up"), ValueError, "mode='up'"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_names():
    assert str(accumulate.accumulator_of("FP16-Kahan")) == "fp16-kahan"
    assert str(accumulate.accumulator_of("bf16", 8)) == "bf16-sequential in blocks of 8"
    assert (
        str(accumulate.accumulator_of(fs.FP32)) == str(accumulate.accumulator_of("fp32")) == "fp32"
    )
    assert str(accumulate.accumulator_of("exact")) == "exact"
    assert str(accumulate.accumulator_of("pairwise")) == "pairwise"
