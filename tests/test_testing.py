"""The conformance kit: each of many wrong functions is found, and named."""

import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from conftest import ORACLE_DTYPES, assert_same_bits, astype
from hypothesis import find, given, settings

import fp16sim as fs
from fp16sim.kernels import reference
from fp16sim.testing import (
    CLASSES,
    ConformanceError,
    check_arithmetic,
    check_rounding,
    inputs,
    operations,
    ranks,
    report,
    strategies,
)

GAP = fs.Format(name="gap", precision=4, emin=-3, emax=3, subnormals=False)
FNUZ = fs.Format(
    name="fnuz", precision=4, emin=-7, emax=7, infinities=False, signed_zero=False
)  # fmt: skip
BARE = fs.Format(
    name="bare", precision=3, emin=-2, emax=2,
    infinities=False, nans=False, subnormals=False, signed_zero=False,
)  # fmt: skip
SHORT = fs.FP64.with_range_of(fs.FP16)
FORMATS = [*ORACLE_DTYPES, fs.TF32, fs.FP32, fs.FP64, fs.E8M0, GAP, FNUZ, BARE, SHORT]
SMALL = [fmt for fmt in FORMATS if fmt.bits <= 8]

TINY = 2.0**-24  # the smallest fp16 number
UP = 1 + 2.0**-23  # to the next float32 number of most


def fp16(x):
    return fs.round_to(x, "fp16")


def at_ties(choose):
    """To nearest; of halfway cases, choose(x, below, above)."""

    def rounded(x):
        below, above = (fs.round_to(x, "fp16", f"toward_{way}") for way in ("negative", "positive"))
        with np.errstate(invalid="ignore"):
            tie = (x - below == above - x) & (below < above)
        return np.where(tie, choose(x, below, above), fp16(x))

    return rounded


def changed(where, what):
    """Right, but ``what(x)`` where ``where(x)``."""
    return lambda x: np.where(where(x), what(x), fp16(x)).astype(np.float32)


def truncated(x):
    return fs.round_to(x, "fp16", "toward_zero")


def payload_cut(x):
    """The bits of a NaN shifted right, as they come: what is left may be infinity's."""
    cut = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isnan(x), cut, fp16(x))


def magnitude(x):
    return np.abs(x)


#: wrong functions, and all that is wrong with each: classes, with the smallest input of each
MUTATIONS = {
    "ties up": (at_ties(lambda x, below, above: above), {"tie": TINY / 2}),
    "ties down": (at_ties(lambda x, below, above: below), {"tie": -TINY / 2}),
    "ties away": (lambda x: fs.round_to(x, "fp16", "ties_to_away"), {"tie": TINY / 2}),
    "ties to zero": (
        at_ties(lambda x, below, above: np.where(x < 0, above, below)),
        {"tie": 1.5 * TINY},
    ),
    "ties away if negative": (
        at_ties(lambda x, below, above: np.where(x < 0, below, fp16(x))),
        {"tie": -TINY / 2},
    ),
    "truncates": (
        truncated,
        {
            "overflow": 65520.0,
            "tie": 1.5 * TINY,
            "flushed": TINY / 2 * UP,
            "subnormal": 1.5 * TINY + 2.0**-47,
            "rounding": 2.0**-14 * (1 + 2.0**-11 + 2.0**-23),
        },
    ),
    "flushes subnormal results": (
        lambda x: fs.round_to(x, "fp16", subnormals=False),
        {"flushed": TINY / 2 * UP},
    ),
    "has no subnormals": (
        lambda x: fs.round_to(x, replace(fs.FP16, subnormals=False)),
        {
            "flushed": TINY / 2 * UP,
            "exact": 2.0**-15 + TINY,
            "subnormal": 2.0**-15 * UP,
        },
    ),
    "keeps all bits below the normal range": (
        lambda x: fs.round_to(x, replace(fs.FP16, emin=-25)),
        {"not in format": 2.0**-36 * UP},
    ),
    "loses the sign of zero": (lambda x: fp16(x) + np.float32(0), {"sign of zero": -0.0}),
    "loses the sign on underflow": (
        changed(lambda x: (fp16(x) == 0) & (x != 0), lambda x: 0.0),
        {"sign of zero": -(2.0**-149)},
    ),
    "overflows too late": (
        changed(
            lambda x: (magnitude(x) >= 65520) & (magnitude(x) < 65536),
            lambda x: np.copysign(65504, x),
        ),
        {"overflow": 65520.0},
    ),
    "overflows too early": (
        changed(lambda x: magnitude(x) > 65504, lambda x: np.copysign(np.inf, x)),
        {"overflow": 65504 + 2.0**-8},
    ),
    "overflows to the next power of two": (
        changed(
            lambda x: (magnitude(x) >= 65520) & (magnitude(x) < 65536),
            lambda x: np.copysign(65536, x),
        ),
        {"overflow": 65520.0},
    ),
    "saturates": (
        lambda x: fs.round_to(x, "fp16", saturate=True),
        {"infinity": np.inf, "overflow": 65520.0},
    ),
    "makes NaN of infinity": (
        changed(np.isinf, lambda x: np.nan), {"infinity": np.inf},
    ),
    "makes zero of NaN": (lambda x: np.nan_to_num(fp16(x), nan=0, posinf=np.inf, neginf=-np.inf),
                          {"NaN": 0x7F800001}),
    "cuts the payload of NaN": (payload_cut, {"NaN": 0x7F800001}),
    "truncates in one binade": (
        changed(lambda x: (magnitude(x) >= 1024) & (magnitude(x) < 2048), truncated),
        {"tie": 1025.5, "rounding": 1024.5 + 2.0**-13},
    ),
    "changes one": (changed(lambda x: x == 1, lambda x: 1 + 2.0**-10), {"exact": 1.0}),
    "is wrong for one number": (
        changed(lambda x: x == -2.5 - 2.0**-22, lambda x: -2.501953125),
        {"rounding": -2.5 - 2.0**-22},
    ),
    "has a bit less": (
        lambda x: fs.round_to(x, replace(fs.FP16, precision=10)),
        {
            "overflow": 65504.0,  # halfway to 65536
            "flushed": TINY / 2 * UP,
            "exact": 3 * TINY,
            "subnormal": TINY * UP,
            "rounding": 2.0**-14 * (1 + 2.0**-11 + 2.0**-23),
        },
    ),
    "rounds twice": (
        lambda x: fp16(fs.round_to(x, replace(fs.TF32, precision=14))),
        {
            "overflow": 65518.0,  # halfway to 65520 in 14 bits
            "flushed": TINY / 2 * UP,
            "subnormal": 1.5 * TINY - 2.0**-38,
            "rounding": 2.0**-14 * (1 + 2.0**-11 + 2.0**-23),
        },
    ),
}  # fmt: skip


def failure_of(check, *arguments, **keywords):
    with pytest.raises(ConformanceError) as caught:
        check(*arguments, **keywords)
    return caught.value.report


class TestWrongRounding:
    @pytest.mark.parametrize("name", MUTATIONS)
    def test_is_found_with_its_class_and_smallest_input(self, name):
        function, expected = MUTATIONS[name]
        found = failure_of(check_rounding, function, "fp16", random_inputs=10_000)
        smallest = {kind: found.smallest(kind).bits[0] for kind in found.counts}
        bits = {
            kind: x if isinstance(x, int) else int(np.float32(x).view(np.uint32))
            for kind, x in expected.items()
        }
        assert smallest == bits
        for failure in found.failures:
            assert float(fp16(np.float32(failure.inputs[0]))) == pytest.approx(
                failure.expected, abs=0, rel=0, nan_ok=True
            )

    def test_counts_are_those_of_all_inputs(self):
        """fp16 to e4m3: what is wrong is counted by hand, from exact arithmetic."""
        x = np.concatenate(list(inputs.every_input(fs.FP16)))
        positive = [float(v) for v in x if 0 < v <= 448]
        found = failure_of(
            check_rounding,
            lambda x: fs.round_to(x, "e4m3", "ties_to_away"),
            "e4m3",
            source="fp16",
            max_failures=1000,
        )
        wrong = [
            v
            for v in positive
            if reference.round_to(v, fs.E4M3, "ties_to_away") != reference.round_to(v, fs.E4M3)
        ]
        assert found.counts["tie"] == 2 * len(wrong)
        ties = {f.inputs[0] for f in found.failures if f.kind == "tie"}
        assert ties == {*wrong, *(-x for x in wrong)}
        assert found.counts["overflow"] == 2  # 464 to even is 448, away is NaN
        assert found.inputs == len(x) == 63492
        assert found.exhaustive

    def test_double_rounding_through_float32(self):
        def twice(x):
            with np.errstate(all="ignore"):
                return fs.round_to(x.astype(np.float32), "fp16")

        found = failure_of(check_rounding, twice, "fp16", source="fp64", random_inputs=10_000)
        ulp = 2.0**-52
        assert {kind: found.smallest(kind).inputs[0] for kind in found.counts} == {
            "overflow": 65520 - 2.0**-9,
            "flushed": TINY / 2 * (1 + ulp),
            "subnormal": 1.5 * TINY - 2.0**-48,
            "rounding": 2.0**-14 * (1 + 2.0**-11 + ulp),
        }

    def test_wrong_modes_and_switches(self):
        found = failure_of(check_rounding, truncated, "fp16", "toward_positive", random_inputs=0)
        assert found.smallest("flushed").inputs == (2.0**-149,)
        found = failure_of(check_rounding, truncated, "fp16", "to_odd", random_inputs=0)
        assert set(found.counts) == {"tie", "flushed", "subnormal", "rounding"}
        found = failure_of(check_rounding, fp16, "fp16", subnormals=False, random_inputs=0)
        assert set(found.counts) == {"subnormal"}
        found = failure_of(check_rounding, fp16, "fp16", saturate=True, random_inputs=0)
        assert set(found.counts) == {"infinity", "overflow"}

    def test_formats_without_what_others_have(self):
        def bare(x):
            return fs.round_to(x, replace(BARE, signed_zero=True))

        found = failure_of(check_rounding, bare, BARE, random_inputs=0)
        assert set(found.counts) == {"sign of zero"}

        def positive(x):
            return fs.round_to(np.where(x == 0, np.float32(2.0**-140), abs(x)), "e8m0")

        found = failure_of(check_rounding, positive, "e8m0", random_inputs=1000)
        assert set(found.counts) == {"NaN"}
        assert found.smallest("NaN").inputs == (0.0,)
        found = failure_of(
            check_rounding, lambda x: fs.round_to(x, "e4m3", saturate=True), "e4m3", random_inputs=0
        )
        assert found.smallest("overflow").inputs == (464 + 2.0**-15,)

    def test_message(self):
        with pytest.raises(ConformanceError) as caught:
            check_rounding(
                MUTATIONS["overflows to the next power of two"][0], "fp16", random_inputs=0
            )
        assert str(caught.value).endswith(
            """inputs, a selection

overflow: 6 (a finite result beyond the largest number, or taken for one), the smallest:
  input     65520.0 (0x477ff000)
  got       65536.0 (not a number of fp16)
  expected  inf (0 11111 0000000000)
  between   65504.0 (0 11110 1111111111)
  and       inf (0 11111 0000000000)"""
        )
        with pytest.raises(ConformanceError, match=r"expected  2.3841858e-07 \(01101001\)"):
            check_rounding(lambda x: x, "e8m0", source="fp16")
        with pytest.raises(ConformanceError, match=r"input     6e-08 \(0x0001\)|5.9604645e-08"):
            check_rounding(lambda x: 0 * x, "fp16", source="fp16")


def check(fmt, source, mode="ties_to_even", **switches):
    """That ``round_to`` conforms to itself, on inputs of every kind."""
    return check_rounding(
        lambda x: fs.round_to(x, fmt, mode, **switches),
        fmt, mode, source=source, random_inputs=2000, **switches,
    )  # fmt: skip


class TestRightRounding:
    @pytest.mark.parametrize("fmt", FORMATS, ids=repr)
    @pytest.mark.parametrize("source", [fs.FP64, fs.FP32, fs.TF32, fs.FP16, fs.E8M0, GAP])
    def test_passes(self, fmt, source):
        if fmt is SHORT and source is not fs.FP64:
            with pytest.raises(ValueError, match="does not fit float32"):
                check(fmt, source)
            return
        report = check(fmt, source)
        assert report.passed
        assert report.failed == 0
        assert report.exhaustive == (source.bits <= 16)
        extent = "all there are" if report.exhaustive else "a selection"
        assert str(report).endswith(f"holds for {report.inputs:,} inputs, {extent}")

    @pytest.mark.parametrize("mode", list(reference.GOES_UP))
    @pytest.mark.parametrize("switch", ["saturate", "subnormals"])
    def test_modes_and_switches(self, mode, switch):
        for value in (False, True):
            check("fp16", "fp32", mode, **{switch: value})

    @pytest.mark.parametrize("fmt", ORACLE_DTYPES, ids=repr)
    def test_casts_of_others_in_their_own_dtype(self, fmt):
        check_rounding(lambda x: astype(x, ORACLE_DTYPES[fmt]), fmt, random_inputs=10_000)

    def test_any_nan_will_do_and_none_where_there_is_none(self):
        check_rounding(lambda x: np.where(np.isnan(x), -np.nan, fp16(x)), "fp16", random_inputs=0)

        def rounded(x):
            assert not np.isnan(x).any()
            return fs.round_to(x, "e2m1")

        check_rounding(rounded, "e2m1", random_inputs=1000)

    def test_sign_of_zero_if_it_does_not_matter(self):
        function, _ = MUTATIONS["loses the sign of zero"]
        report = check_rounding(function, "fp16", random_inputs=0, ignore_sign_of_zero=True)
        assert report.passed

    def test_functions_that_work_in_place(self):
        def rounded(x):
            x[...] = fp16(x)
            return x

        for _ in range(2):
            check_rounding(rounded, "fp16", random_inputs=0)

    def test_functions_of_one_number(self):
        def rounded(x):
            assert type(x) is float
            return reference.round_to(x, fs.E4M3)

        assert check_rounding(rounded, "e4m3", source="e5m2", vectorized=False).inputs == 252
        found = failure_of(
            check_rounding, lambda x: round(x, 3), "e4m3", source="e5m2", vectorized=False
        )
        assert "ValueError" not in str(found.problem)

    def test_all_inputs_in_parts_with_progress(self, monkeypatch):
        monkeypatch.setattr(inputs, "CHUNK", 1 << 17)
        steps = []
        report = check_rounding(
            fp16, "fp16", source="tf32", exhaustive=True, progress=lambda *step: steps.append(step)
        )
        assert report.exhaustive
        assert report.inputs == 2**19 - 2 * 1022  # one NaN of each sign
        assert steps[-1] == (report.inputs, report.inputs)
        assert len(steps) > 2
        found = failure_of(
            check_rounding, truncated, "fp16", source="tf32", exhaustive=True, max_failures=2
        )
        assert found.smallest("flushed").inputs[0] == TINY / 2 * (1 + 2.0**-10)
        assert [f.inputs[0] for f in found.failures if f.kind == "tie"] == [1.5 * TINY, -1.5 * TINY]

    def test_all_float32_are_all(self):
        parts = inputs.every_input(fs.FP32)
        first, second = next(parts), next(parts)
        words = np.concatenate([first, second]).view(np.uint32)
        assert np.array_equal(words, np.arange(words.size))
        assert inputs.count_of_every_input(fs.FP32) == 2**32

    def test_the_same_seed_gives_the_same_inputs(self):
        first, again, other = (
            inputs.hard_inputs(fs.E4M3, fs.FP32, 999, seed) for seed in (0, 0, 1)
        )
        assert_same_bits(first, again)
        assert not np.array_equal(np.sort(first), np.sort(other))


class TestTrouble:
    def test_the_input_that_raises_is_named(self):
        def rounded(x):
            if (x == 65504).any():
                raise OverflowError("too large")
            return fp16(x)

        found = failure_of(check_rounding, rounded, "fp16", random_inputs=1000)
        assert "raised OverflowError: too large\n  for 65504.0 (0x477fe000)" in found.problem
        assert not found.passed

    def test_what_only_many_inputs_raise(self):
        def rounded(x):
            if x.size > 1000:
                raise MemoryError("too many")
            return fp16(x)

        with pytest.raises(ConformanceError, match="MemoryError") as caught:
            check_rounding(rounded, "fp16", random_inputs=1000)
        assert isinstance(caught.value.__cause__, MemoryError)
        assert "inputs at once, of which the first is" in caught.value.report.problem

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            (lambda x: x[:-1], r"shape \(0,\) for shape \(1,\)\n  for"),
            (lambda x: x.sum(), r"shape \(\) for shape \(1,\)"),
            (lambda x: x.astype(np.int64), "no floats: the result has dtype int64"),
            (lambda x: x + 0j, "dtype complex64"),
            (lambda x: None, "dtype object"),
            (lambda x: "abc", "dtype"),
        ],
    )
    def test_what_is_no_array_of_floats(self, function, message):
        with pytest.raises(ConformanceError, match=message):
            check_rounding(function, "fp16", random_inputs=0)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"fmt": "fp17"}, ValueError, "fmt='fp17'"),
            ({"source": "fp17"}, ValueError, "source='fp17'"),
            ({"mode": "nearest"}, ValueError, "mode='nearest'"),
            ({"mode": "stochastic"}, ValueError, "mode='stochastic'"),
            ({"seed": -1}, ValueError, "seed=-1"),
            ({"random_inputs": 0.5}, TypeError, "random_inputs must be an integer"),
            ({"max_failures": 0}, ValueError, "max_failures=0"),
            ({"source": "fp64", "exhaustive": True}, ValueError, "sources of up to 32 bits"),
        ],
    )
    def test_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            check_rounding(fp16, **{"fmt": "fp16", **arguments})
        if "operation" not in arguments and "source" not in arguments:
            with pytest.raises(error, match=message):
                check_arithmetic(np.add, "add", **{"fmt": "fp16", **arguments})

    def test_unknown_operation(self):
        with pytest.raises(ValueError, match="operation='power' is not known"):
            check_arithmetic(np.power, "power", "fp16")

    def test_smallest_of_a_class_without_failures(self):
        found = failure_of(check_rounding, MUTATIONS["ties up"][0], "fp16", random_inputs=0)
        with pytest.raises(KeyError, match="no failure of class 'NaN'; there are tie"):
            found.smallest("NaN")
        assert list(found.counts) == ["tie"]
        assert set(found.counts) <= set(CLASSES)


EXACT = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
}


class TestArithmetic:
    @pytest.mark.parametrize("name", EXACT)
    @pytest.mark.parametrize("fmt", [fs.E2M1, fs.E3M2, GAP], ids=repr)
    def test_against_fractions(self, name, fmt):
        """Every pair, where neither operand nor result is zero or special: no use of ``arith``."""

        def compute(x, y):
            result = np.asarray(getattr(np, name)(x.astype(np.float64), y))
            for i, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
                if math.isfinite(a) and math.isfinite(b) and a and b:
                    exact = EXACT[name](Fraction(a), Fraction(b))
                    result[i] = reference.round_to(exact or result[i], fmt)
                else:
                    result[i] = reference.round_to(float(result[i]), fmt)
            return result

        report = check_arithmetic(compute, name, fmt)
        assert report.exhaustive

    def test_numpy_float16(self):
        def of_float16(ufunc):
            return lambda *operands: ufunc(*(x.astype(np.float16) for x in operands))

        for name in ("add", "subtract", "multiply", "divide", "sqrt", "rint"):
            function = of_float16(getattr(np, name))
            report = check_arithmetic(function, name, "fp16", random_inputs=20_000)
            assert report.exhaustive == (name in ("sqrt", "rint"))

    def test_product_and_sum_rounded_twice(self):
        def fma(x, y, z):
            return fp16(fp16(x * y) + z)

        found = failure_of(check_arithmetic, fma, "fma", "fp16", random_inputs=20_000)
        assert {"rounding", "tie", "exact", "overflow", "sign of zero"} <= set(found.counts)
        for failure in found.failures:
            if failure.kind == "tie":
                x, y, z = map(Fraction, failure.inputs)
                assert x * y + z == (Fraction(failure.below) + Fraction(failure.above)) / 2
            if failure.kind == "exact":
                x, y, z = map(Fraction, failure.inputs)
                assert x * y + z == Fraction(failure.expected) != Fraction(failure.got)

    def test_counts_by_hand(self):
        """Division as a product with a rounded reciprocal, all pairs of e3m2."""

        def divide(x, y):
            return fs.round_to(x * fs.round_to(1 / y, "e3m2"), "e3m2")

        found = failure_of(check_arithmetic, divide, "divide", "e3m2", max_failures=4000)
        numbers = [x for x in fs.E3M2 if x]
        wrong = [
            (x, y)
            for x in numbers
            for y in numbers
            if reference.round_to(Fraction(x) / Fraction(y), fs.E3M2)
            != divide(np.float32(x), np.float32(y))
        ]
        listed = {f.inputs for f in found.failures if all(f.inputs)}
        assert listed == set(wrong)
        ties = {f.inputs for f in found.failures if f.kind == "tie"}
        assert ties
        for x, y in ties:
            exact = Fraction(x) / Fraction(y)
            below = reference.round_to(exact, fs.E3M2, "toward_negative")
            above = reference.round_to(exact, fs.E3M2, "toward_positive")
            assert 2 * exact == Fraction(below) + Fraction(above)
        for kind in found.counts:
            pairs = [f.inputs for f in found.failures if f.kind == kind]
            # By the larger magnitude, then by all magnitudes; positive first.
            keys = [(max(map(abs, p)), *map(abs, p), *np.signbit(p).tolist()) for p in pairs]
            assert keys == sorted(keys)
            one = failure_of(check_arithmetic, divide, "divide", "e3m2", max_failures=1)
            assert one.smallest(kind).inputs == pairs[0]
        assert found.smallest("infinity").inputs[1] == 0

    @pytest.mark.parametrize(
        ("change", "kind", "smallest"),
        [
            (lambda r, x, y: r + np.float32(0), "sign of zero", (-0.0, -0.0)),
            (lambda r, x, y: np.where(x == y, np.nan, r), "NaN", (0.0, 0.0)),
            (lambda r, x, y: np.where(abs(r) > 400, np.sign(r) * 400, r), "overflow", None),
            (lambda r, x, y: np.where(abs(r) < 2.0**-6, 0 * r, r), "flushed", (0.0, 2.0**-9)),
        ],
    )
    def test_wrong_sums(self, change, kind, smallest):
        def add(x, y):
            with np.errstate(all="ignore"):
                return change(fs.round_to(x + y, "e4m3"), x, y).astype(np.float32)

        found = failure_of(check_arithmetic, add, "add", "e4m3")
        assert kind in found.counts
        if smallest is not None:
            assert found.smallest(kind).inputs == smallest
            signs = [math.copysign(1, x) for x in smallest]
            assert [math.copysign(1, x) for x in found.smallest(kind).inputs] == signs

    def test_every_operation_passes_and_a_wrong_one_does_not(self):
        for operation, count in operations.OPERATIONS.items():
            correct = operations.correct(operation)
            for fmt in (fs.E4M3, fs.FP16, fs.E3M2):

                def function(*operands, correct=correct, fmt=fmt):
                    return correct(*operands, fmt)

                check_arithmetic(function, operation, fmt, random_inputs=500)
                found = failure_of(
                    check_arithmetic,
                    lambda *operands, function=function: function(*operands) * 2,
                    operation,
                    fmt,
                    random_inputs=500,
                )
                assert len(found.failures[0].inputs) == count

    def test_order_of_tuples(self):
        """By the larger magnitude, then the first, then the second; of equals, positive first."""
        pairs = [(0.0, 0.0), (-0.0, 0.0), (-0.5, 1.0), (1.0, 0.0), (1.0, -0.5), (-1.0, 0.5)]
        shuffled = [pairs[i] for i in (3, 5, 0, 4, 2, 1)]
        x, y = (np.array(column, np.float32) for column in zip(*shuffled, strict=True))
        assert [shuffled[i] for i in report.order_of([x, y])] == pairs

    def test_ties_of_rint(self):
        found = failure_of(check_arithmetic, lambda x: np.trunc(x + np.sign(x) / 2), "rint", "e3m2")
        assert found.smallest("tie").inputs == (0.5,)
        assert set(found.counts) <= {"tie", "sign of zero"}

    def test_random_operands_meet_ties_and_borders(self):
        for operation in ("add", "multiply", "fma"):
            count = operations.OPERATIONS[operation]
            tried = operations.operands_of(fs.FP16, count, 50_000, 0)
            exact, (below, above) = operations.exact_and_sides(operation, tried, fs.FP16)
            with np.errstate(invalid="ignore"):
                ties = (exact - below == above - exact) & (below < above)
            assert ties.sum() > 200
            assert ((abs(exact) > 65504) & (abs(exact) < 65536)).sum() > 10
            assert ((exact != 0) & (abs(exact) < TINY)).sum() > 20 or operation == "add"

    def test_functions_of_one_number(self):
        def add(x, y):
            assert type(x) is type(y) is float
            return reference.round_to(x + y, fs.E2M1)

        check_arithmetic(add, "add", "e2m1", vectorized=False)
        with pytest.raises(ConformanceError, match=r"ZeroDivisionError.*\n  for 0.0 \(0x0\)"):
            check_arithmetic(lambda x, y: x / y, "divide", "e2m1", vectorized=False)


class TestRanks:
    @pytest.mark.parametrize("fmt", [*SMALL, fs.FP16, fs.BF16], ids=repr)
    def test_are_places_among_the_numbers(self, fmt):
        positive = [x for x in fmt if x > 0 and math.isfinite(x)]
        first = ranks.smallest(fmt)
        places = np.arange(first, first + len(positive))
        assert ranks.numbers(places, fmt).tolist() == positive
        assert np.array_equal(ranks.ranks_of(np.array(positive), fmt), places)
        assert ranks.largest(fmt) == places[-1]
        for place, x in list(zip(places.tolist(), positive, strict=True))[
            :: len(positive) // 50 + 1
        ]:
            assert ranks.number(place, fmt) == x
            assert ranks.floor(Fraction(x), fmt) == place
            assert ranks.floor(Fraction(x) * Fraction(4097, 4096), fmt) == place


#: enough examples for every number of a format of 4 to 6 bits to be drawn
MANY = settings(max_examples=2000, database=None, derandomize=True)


def drawn(strategy):
    """The set of what a strategy draws, in hexadecimal, which tells zeros apart."""
    found = set()

    @MANY
    @given(strategy)
    def collect(x):
        assert type(x) is float
        found.add("nan" if math.isnan(x) else x.hex())

    collect()
    return found


def middles(fmt):
    """By brute force: all midpoints, and the threshold of overflow."""
    positive = [Fraction(x) for x in fmt if x > 0 and math.isfinite(x)]
    beyond = 2 * positive[-1] - positive[-2] if fmt.precision > 1 else 2 * positive[-1]
    zero = [Fraction(0)] if fmt.signed else []
    points = [*zero, *positive, beyond]
    found = [(a + b) / 2 for a, b in pairwise(points)]
    return found + [-x for x in found] if fmt.signed else found


class TestStrategies:
    @pytest.mark.parametrize("fmt", FORMATS, ids=repr)
    def test_values_are_numbers_of_the_format(self, fmt):
        @settings(max_examples=50)
        @given(strategies.values(fmt), strategies.edges(fmt), strategies.bit_patterns(fmt))
        def belong(value, edge, bits):
            assert inputs.is_number(value, fmt)
            assert inputs.is_number(edge, fmt)
            assert type(bits) is int
            decoded = fs.decode([bits], fmt)[0]
            assert np.isnan(decoded) or fs.encode(decoded, fmt) == bits

        belong()

    @pytest.mark.parametrize("fmt", [fs.E2M1, fs.E3M2, GAP, BARE], ids=repr)
    def test_all_values_and_midpoints_are_drawn(self, fmt):
        assert drawn(strategies.values(fmt)) == {x.hex() for x in fmt}
        finite = {x.hex() for x in fmt if math.isfinite(x)}
        assert drawn(strategies.values(fmt, allow_infinity=False)) == finite
        with_nan = drawn(strategies.values(fmt, allow_nan=True))
        assert ("nan" in with_nan) == fmt.nans
        assert drawn(strategies.midpoints(fmt)) == {float(x).hex() for x in middles(fmt)}
        extreme = {fmt.max, fmt.min, fmt.smallest_subnormal, fmt.smallest_normal}
        assert {x.hex() for x in extreme} <= drawn(strategies.edges(fmt))

    @pytest.mark.parametrize("fmt", [fs.E2M1, fs.E3M2, GAP, BARE, FNUZ, fs.E5M2], ids=repr)
    def test_all_bit_patterns_are_drawn(self, fmt):
        found = set()

        @settings(MANY, max_examples=3000)
        @given(strategies.bit_patterns(fmt))
        def collect(bits):
            found.add(bits)

        collect()
        used = set()
        for bits in range(2**fmt.bits):
            try:
                value = fs.decode([bits], fmt)[0]
            except ValueError:
                continue
            if value != 0 or not np.signbit(value) or fmt.signed_zero:
                used.add(bits)
        assert found <= used
        assert len(found) > 0.9 * len(used)

    @pytest.mark.parametrize("fmt", [fs.E2M1, GAP, BARE, fs.E8M0, fs.E4M3], ids=repr)
    @pytest.mark.parametrize("carrier", [fs.FP32, fs.E3M2, fs.E8M0], ids=repr)
    def test_near_midpoints(self, fmt, carrier):
        """Each is a carrier's number with no other one strictly between it and a midpoint."""
        points = middles(fmt)

        @settings(max_examples=50)
        @given(strategies.near_midpoints(fmt, carrier))
        def near(x):
            assert inputs.is_number(x, carrier)
            assert math.isfinite(x)
            place = ranks.floor(abs(Fraction(x)), carrier)
            below = ranks.number(ranks.preceding(place, carrier), carrier)
            above = ranks.number(ranks.following(place, carrier), carrier)
            at_end = abs(x) in (carrier.max, ranks.number(ranks.lowest(carrier), carrier))
            assert at_end or any(below <= abs(point) <= above for point in points)

        near()

    def test_near_midpoints_of_wide_formats(self):
        """Without the midpoint in the carrier, the numbers on both sides of it."""
        find(strategies.near_midpoints("fp32", "fp32"), lambda x: x == 1)
        find(strategies.near_midpoints("fp64", "fp64"), lambda x: x > 1e300)
        find(strategies.near_midpoints("fp64", "fp16"), lambda x: x == 65504)
        with pytest.raises(ValueError, match="fmt=fp64 has midpoints that are not float64"):
            strategies.midpoints("fp64")

    @pytest.mark.parametrize("fmt", FORMATS, ids=repr)
    @pytest.mark.parametrize("carrier", [fs.FP64, fs.FP32, fs.E8M0, GAP, BARE], ids=repr)
    def test_hard_to_round_are_numbers_of_the_carrier(self, fmt, carrier):
        @settings(max_examples=25)
        @given(strategies.hard_to_round(fmt, carrier))
        def belong(x):
            assert inputs.is_number(x, carrier)

        belong()

    def test_hard_to_round_has_what_is_hard(self):
        found = drawn(strategies.hard_to_round("fp16"))
        edges = [0.0, 65504.0, 65520.0, 65520 - 2.0**-8, 65504 + 2.0**-8, TINY / 2, TINY / 2 * UP]
        edges += [np.inf, 2.0**-149, fs.FP32.max, TINY, 2.0**-14, 1 + 2.0**-11]
        assert {x.hex() for x in edges} | {(-x).hex() for x in edges} <= found

    def test_wrong_functions_are_found_and_shrunk(self):
        quick = settings(max_examples=2000, database=None, derandomize=True)

        def smallest(function):
            def wrong(x):
                return function(np.float32([x]))[0] != fp16(np.float32(x))

            return find(strategies.hard_to_round("fp16"), wrong, settings=quick)

        assert smallest(MUTATIONS["ties away"][0]) == TINY / 2
        assert smallest(MUTATIONS["ties to zero"][0]) == 1.5 * TINY
        assert smallest(MUTATIONS["overflows too late"][0]) == 65520
        assert smallest(MUTATIONS["saturates"][0]) in (65520, 65536, np.inf)

    def test_values_shrink_to_small_positive_ones(self):
        assert find(strategies.values("fp16"), lambda x: True) == 0
        assert find(strategies.values("fp16"), lambda x: x > 1) == 1 + 2.0**-10
        assert find(strategies.values("fp16"), lambda x: abs(x) >= 100) == 100
        assert find(strategies.values("e8m0"), lambda x: x > 1) == 2
        assert find(strategies.bit_patterns("fp16"), lambda x: 0x3C00 < x < 0x7C00) == 0x3C01

    def test_arguments(self):
        for strategy in (strategies.values, strategies.midpoints, strategies.hard_to_round):
            with pytest.raises(ValueError, match="fmt='fp17' is not a known format"):
                strategy("fp17")
        with pytest.raises(ValueError, match="carrier='fp17'"):
            strategies.near_midpoints("fp16", "fp17")


def test_only_strategies_need_hypothesis():
    code = """
import sys
import numpy as np
sys.modules["hypothesis"] = None
from fp16sim import testing
print(testing.check_rounding(lambda x: x.astype(np.float16), "fp16", source="bf16"))
try:
    testing.strategies
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == (
        "<lambda> rounds bf16 to fp16, ties_to_even: holds for 65,284 inputs, all there are\n"
        "fp16sim.testing.strategies needs Hypothesis: pip install 'fp16sim[test]'\n"
    )


def test_names():
    from fp16sim import testing

    assert all(getattr(testing, name) is not None for name in testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = testing.nothing
