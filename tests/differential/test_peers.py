"""The conformance kit on other packages: it finds what is known to be wrong, and passes the rest.

What is asserted are facts about the versions named in the extra ``peers``; each was looked at by
hand. ``smallest`` is the failing input of least magnitude, with what the package makes of it.
"""

import math
import os
import sys
import warnings
from pathlib import Path

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from conftest import ORACLE_DTYPES, astype
from gfloat import formats as gfloat_formats

import fp16sim as fs
from fp16sim.testing import ConformanceError, check_arithmetic, check_rounding

TINY = 2.0**-24  # the smallest fp16 number
UP = 1 + 2.0**-23  # to the next float32 number of a power of two


def failure_of(*arguments, **keywords):
    with pytest.raises(ConformanceError) as caught:
        check_rounding(*arguments, **keywords)
    return caught.value.report


def smallest(report, *left_out):
    """By class: the smallest failing input and what became of it; NaN inputs as bits."""
    found = {}
    for kind in report.counts:
        if kind not in left_out:
            failure = report.smallest(kind)
            (x,) = failure.bits if kind == "NaN" else failure.inputs
            found[kind] = (x, failure.got)
    return found


def assert_smallest(report, expected, *left_out):
    """Exactly these classes, inputs and results; zeros with their signs."""
    assert repr(smallest(report, *left_out)) == repr(
        {
            kind: tuple(map(float, pair)) if kind != "NaN" else pair
            for kind, pair in expected.items()
        }
    )


@pytest.fixture(scope="module")
def pychop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dask and what it imports
        import pychop

        return pychop


@pytest.fixture(scope="module")
def qtorch(tmp_path_factory):
    """It compiles C++ when it is imported, with ``ninja`` from beside the interpreter."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = str(Path(sys.executable).parent)
        patch.setenv("PATH", os.pathsep.join([beside, os.environ.get("PATH", "")]))
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.mktemp("extensions")))
        from qtorch import quant

        return quant


class TestPychop:
    """LightChop, NumPy backend; rmode is its number of the rounding mode."""

    def rounds(self, pychop, rmode, bits=(5, 10)):
        chop = pychop.Chop(*bits, rmode)
        return lambda x: chop(x)

    def test_to_nearest_even(self, pychop):
        report = failure_of(self.rounds(pychop, 1), "fp16", max_failures=10_000)
        assert_smallest(
            report,
            {
                "overflow": (65520, 65536),
                "sign of zero": (-0.0, 0.0),
                "flushed": (TINY / 2 * UP, 0.0),
                # The significand is rounded to 11 bits first, and then to the subnormal's.
                "subnormal": (1.5 * TINY - 2.0**-39, 2 * TINY),
            },
        )
        assert report.counts["subnormal"] == 1025
        overflows = {f.inputs[0]: f.got for f in report.failures if f.kind == "overflow"}
        assert overflows[-65520.0] == -65536
        assert overflows[65536.0] == overflows[-65536.0] == 0  # and up to 131072
        assert all(65520 <= abs(x) < 131072 for x in overflows)

    def test_to_nearest_away_is_wrong_for_negatives(self, pychop):
        report = failure_of(self.rounds(pychop, 8), "fp16", "ties_to_away")
        assert report.smallest("tie").inputs == (-TINY / 2,)
        assert report.smallest("tie").got == 0
        assert report.counts["tie"] == 31743  # every negative one in range but the last

    @pytest.mark.parametrize(
        ("rmode", "mode", "tiny"),
        [(2, "toward_positive", 2.0**-149), (3, "toward_negative", -(2.0**-149))],
    )
    def test_directed_modes_lose_tiny_inputs(self, pychop, rmode, mode, tiny):
        report = failure_of(self.rounds(pychop, rmode), "fp16", mode)
        assert report.smallest("flushed").inputs == (tiny,)
        assert report.smallest("flushed").expected == math.copysign(TINY, tiny)
        # What is beyond 65504 does not go to infinity.
        beyond = math.copysign(65504 + 2.0**-8, tiny)
        assert report.smallest("overflow").inputs == (beyond,)
        assert report.smallest("overflow").got == math.copysign(65536, tiny)

    def test_toward_zero_does_not_stop_at_the_largest(self, pychop):
        report = failure_of(
            self.rounds(pychop, 4), "fp16", "toward_zero", random_inputs=0, max_failures=10_000
        )
        overflows = {f.inputs[0]: (f.got, f.expected) for f in report.failures}
        assert overflows[65536.0] == (0, 65504)
        assert overflows[131072.0] == (math.inf, 65504)

    def test_to_odd_changes_numbers_of_the_format(self, pychop):
        report = failure_of(self.rounds(pychop, 9), "fp16", "to_odd")
        failure = report.smallest("exact")
        assert (failure.inputs, failure.got) == ((2 * TINY,), 3 * TINY)
        assert report.counts["exact"] == 31742  # every even one but zero

    def test_bf16_is_right_but_for_minus_zero(self, pychop):
        function = self.rounds(pychop, 1, (8, 7))
        assert_smallest(failure_of(function, "bf16"), {"sign of zero": (-0.0, 0.0)})
        check_rounding(function, "bf16", ignore_sign_of_zero=True)


class TestQtorch:
    """float_quantize, documented as rounding to nearest even, without infinities and NaN."""

    def test_fp16(self, qtorch):
        def rounded(x):
            return qtorch.float_quantize(torch.from_numpy(x), 5, 10, "nearest").numpy()

        report = failure_of(rounded, "fp16")
        assert_smallest(
            report,
            {
                "NaN": (0x7F800001, 131008.0),
                "infinity": (math.inf, 131008),
                "overflow": (65520, 65536),
                "sign of zero": (-0.0, 0.0),
                "tie": (TINY / 2, TINY),
                # As in pychop: rounded to 11 bits first.
                "subnormal": (TINY / 2 * (1 - 2.0**-13), TINY),
            },
        )
        assert report.counts["tie"] == 31744  # all that are even below
        assert failure_of(rounded, "fp16", "ties_to_away").counts.keys() == {
            "NaN", "infinity", "overflow", "sign of zero", "subnormal",
        }  # fmt: skip

    def test_bf16(self, qtorch):
        def rounded(x):
            return qtorch.float_quantize(torch.from_numpy(x), 8, 7, "nearest").numpy()

        tiny = fs.BF16.smallest_subnormal
        assert_smallest(
            failure_of(rounded, "bf16"),
            {
                "NaN": (0x7F800001, math.inf),
                "sign of zero": (-0.0, 0.0),
                "tie": (tiny / 2, tiny),
            },
        )


class TestMlDtypes:
    @pytest.mark.parametrize("fmt", ORACLE_DTYPES, ids=repr)
    def test_float32_is_right(self, fmt):
        check_rounding(lambda x: astype(x, ORACLE_DTYPES[fmt]), fmt)

    @pytest.mark.parametrize(
        ("fmt", "overflow"),
        [
            (fs.BF16, fs.BF16.max + 2.0**119 - 2.0**103),
            (fs.E4M3, 464 + 2.0**-44),  # to be NaN
            (fs.E5M2, 61440 - 2.0**-9),
            (fs.E3M2, None),
            (fs.E2M3, None),
            (fs.E2M1, None),
        ],
        ids=repr,
    )
    def test_float64_is_rounded_twice(self, fmt, overflow):
        """By way of float32, whose half spacings beside midpoints are lost."""
        report = failure_of(lambda x: astype(x, ORACLE_DTYPES[fmt]), fmt, source="fp64")
        found = {kind: x for kind, (x, _) in smallest(report).items()}
        assert found.pop("overflow", None) == overflow
        tiny = fmt.smallest_subnormal
        midpoint = fmt.smallest_normal + tiny / 2
        assert found == {
            "flushed": np.nextafter(tiny / 2, 1),
            "subnormal": 1.5 * tiny - np.spacing(np.float32(1.5 * tiny)) / 2.0,
            "rounding": np.nextafter(midpoint, np.inf),
        }

    def test_e8m0_at_the_lower_end(self):
        """Numbers between 2^-127 and 1.5·2^-127 go up: float32's own subnormals."""
        report = failure_of(lambda x: astype(x, ml_dtypes.float8_e8m0fnu), "e8m0")
        assert_smallest(report, {"rounding": (2.0**-127 + 2.0**-149, 2.0**-126)})


class TestNumpy:
    @pytest.mark.parametrize("source", ["fp32", "fp64"])
    def test_to_float16(self, source):
        check_rounding(lambda x: x.astype(np.float16), "fp16", source=source)

    @pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide", "sqrt", "rint"])
    def test_float16_arithmetic(self, operation):
        ufunc = getattr(np, operation)
        check_arithmetic(lambda *x: ufunc(*(v.astype(np.float16) for v in x)), operation, "fp16")


TORCH_DTYPES = {
    fs.FP16: torch.float16,
    fs.BF16: torch.bfloat16,
    fs.E5M2: torch.float8_e5m2,
    fs.E4M3: torch.float8_e4m3fn,
}


class TestTorch:
    def casts(self, fmt):
        return lambda x: torch.from_numpy(x).to(TORCH_DTYPES[fmt]).float().numpy()

    @pytest.mark.parametrize("fmt", TORCH_DTYPES, ids=repr)
    def test_float32_is_right(self, fmt):
        check_rounding(self.casts(fmt), fmt, saturate=fmt is fs.E4M3)

    def test_e4m3_saturates(self):
        """Where OCP's default conversion, and ml_dtypes, make NaN: a convention."""
        report = failure_of(self.casts(fs.E4M3), "e4m3")
        assert_smallest(report, {"infinity": (math.inf, 448), "overflow": (464 + 2.0**-15, 448)})

    @pytest.mark.parametrize("fmt", TORCH_DTYPES, ids=repr)
    def test_float64_is_rounded_twice(self, fmt):
        report = failure_of(self.casts(fmt), fmt, source="fp64", saturate=fmt is fs.E4M3)
        assert {"flushed", "subnormal", "rounding"} <= set(report.counts)
        assert report.smallest("flushed").inputs == (fmt.smallest_subnormal / 2 * (1 + 2.0**-52),)


GFLOAT_INFOS = {
    fs.FP16: gfloat_formats.format_info_binary16,
    fs.BF16: gfloat_formats.format_info_bfloat16,
    fs.E4M3: gfloat_formats.format_info_ocp_e4m3,
    fs.E5M2: gfloat_formats.format_info_ocp_e5m2,
    fs.E3M2: gfloat_formats.format_info_ocp_e3m2,
    fs.E2M3: gfloat_formats.format_info_ocp_e2m3,
    fs.E2M1: gfloat_formats.format_info_ocp_e2m1,
}
GFLOAT_MODES = {
    "ties_to_even": gfloat.RoundMode.TiesToEven,
    "ties_to_away": gfloat.RoundMode.TiesToAway,
    "toward_zero": gfloat.RoundMode.TowardZero,
    "toward_negative": gfloat.RoundMode.TowardNegative,
    "toward_positive": gfloat.RoundMode.TowardPositive,
}


class TestGfloat:
    @pytest.mark.parametrize("fmt", GFLOAT_INFOS, ids=repr)
    @pytest.mark.parametrize("mode", GFLOAT_MODES)
    def test_is_right_in_all_modes(self, fmt, mode):
        for saturate in sorted(
            {True, not fmt.nans}
        ):  # without NaN it refuses what does not saturate
            for source in ("fp32", "fp64"):
                check_rounding(
                    lambda x, saturate=saturate: gfloat.round_ndarray(
                        GFLOAT_INFOS[fmt], x, GFLOAT_MODES[mode], saturate
                    ),
                    fmt,
                    mode,
                    source=source,
                    saturate=saturate,
                    random_inputs=100_000,
                )

    def test_one_number_at_a_time(self):
        info = gfloat_formats.format_info_ocp_e4m3
        report = check_rounding(
            lambda x: gfloat.round_float(info, x), "e4m3", source="fp16", vectorized=False
        )
        assert report.inputs == 63492

    def test_refuses_what_the_format_does_not_have(self):
        report = failure_of(lambda x: gfloat.round_ndarray(GFLOAT_INFOS[fs.E2M1], x), "e2m1")
        assert "raised ValueError: No Infs or NaNs in format ocp_e2m1" in report.problem
