"""One number explained: parsing, bits, neighbours, errors and fates, and the command."""

import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim.explain import MODES, bit_fields, explain, parse_number

FORMATS = [fs.FP32, fs.FP16, fs.BF16, fs.E4M3, fs.E5M2, fs.E2M1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.1", Fraction(1, 10)),
        ("-1e-7", Fraction(-1, 10**7)),
        ("1/3", Fraction(1, 3)),
        ("0x1.8p-3", Fraction(3, 16)),
        ("2^-24", Fraction(1, 2**24)),
        ("-2^10", Fraction(-1024)),
        (" 7 ", Fraction(7)),
        ("-inf", -math.inf),
    ],
)
def test_numbers_as_people_write_them(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["", "abc", "1/0", "0xg", "2^x", "2^99999999", "1e999999", "--1"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(text)
    assert math.isnan(parse_number("nan"))


def test_the_number_is_the_one_written_not_a_float64():
    """1 + 2^-11 + 10^-30: as a float64 it would be a tie, and go down."""
    number = parse_number("1.00048828125") + Fraction(1, 10**30)
    assert float(number) == 1 + 2.0**-11
    assert explain(number, "fp16").result == 1 + 2.0**-10


@given(st.floats(allow_nan=False), st.sampled_from(FORMATS), st.sampled_from(MODES))
def test_agrees_with_round_to_and_with_itself(x, fmt, mode):
    told = explain(x, fmt, mode)
    result = float(fs.round_to(x, fmt, mode))
    assert told.result == result or (math.isnan(told.result) and math.isnan(result))
    if math.isfinite(x):
        if math.isfinite(told.error_in_ulps) and told.fate != "overflow":
            assert abs(told.error_in_ulps) <= 1  # 1 only as the float nearest to less
            assert (told.fate == "exact") == (told.error_in_ulps == 0) == (result == x)
            assert told.below <= x <= told.above
            assert result in (told.below, told.above)
        if abs(x) <= fmt.max:
            assert told.fate != "overflow"


@pytest.mark.parametrize(
    ("number", "fmt", "mode", "fate"),
    [
        ("1.5", "fp16", "ties_to_even", "exact"),
        ("0.1", "fp16", "ties_to_even", "rounded"),
        ("1e-6", "fp16", "ties_to_even", "subnormal"),
        ("0.00006103515", "fp16", "ties_to_even", "rounded"),  # up to 2^-14, which is normal
        ("1e-9", "fp16", "ties_to_even", "underflow"),
        ("65519", "fp16", "ties_to_even", "rounded"),
        ("65520", "fp16", "ties_to_even", "overflow"),
        ("65535", "fp16", "toward_zero", "rounded"),
        ("65536", "fp16", "toward_zero", "overflow"),
        ("465", "e4m3", "ties_to_even", "overflow"),
        ("7.5", "e2m1", "ties_to_even", "overflow"),
        ("inf", "fp16", "ties_to_even", "exact"),
        ("inf", "e2m1", "ties_to_even", "overflow"),
        ("nan", "fp16", "ties_to_even", "NaN"),
    ],
)
def test_fates(number, fmt, mode, fate):
    assert explain(parse_number(number), fmt, mode).fate == fate


def test_bits():
    assert bit_fields(1.5, fs.FP16) == "0 01111 1000000000"
    assert bit_fields(-448.0, fs.E4M3) == "1 1111 110"
    assert bit_fields(math.nan, fs.E2M1) == ""
    assert bit_fields(1.0, fs.E8M0) == "01111111"
    assert explain(0.1, "bf16").bits == "0 01111011 1001101"
    assert explain(Fraction(0), "fp16").bits == "0 00000 0000000000"


def test_unknown_names():
    with pytest.raises(ValueError, match="mode='stochastic' is not known"):
        explain(0.1, "fp16", "stochastic")
    with pytest.raises(ValueError, match="fmt='fp17'"):
        explain(0.1, "fp17")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fp16sim", "explain", *arguments],
        capture_output=True,
        text=True,
    )


class TestCommand:
    def test_several_formats(self):
        done = command("0.1")
        assert done.returncode == 0, done.stderr
        lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
        assert "0.0999755859375" in lines["fp16"]
        assert "0 01011 1001100110" in lines["fp16"]
        assert "-0.4" in lines["fp16"]
        assert "0 01111011 10011001100110011001101" in lines["fp32"]
        assert "ties_to_away" not in done.stdout

    def test_one_format_shows_neighbours_and_modes(self):
        done = command("-2^-25", "--format", "fp16")
        for mode in ("below", "above", *MODES):
            assert mode in done.stdout
        assert "underflow" in done.stdout

    def test_json(self):
        done = command("1e6", "--format", "fp16", "--format", "bf16", "--json")
        first, second = json.loads(done.stdout)
        assert (first["format"], first["result"], first["fate"]) == ("fp16", "inf", "overflow")
        assert second["result"] == float(fs.round_to(np.float32(1e6), "bf16"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["x"], "'x' is not a number"),
            (["1", "--format", "fp17"], "fmt='fp17' is not a known format"),
            (["1", "--mode", "up"], "mode='up' is not known"),
            (["1", "--fromat", "fp16"], "unexpected extra"),
            ([], "Missing argument 'NUMBER'"),
        ],
    )
    def test_bad_usage(self, arguments, message):
        done = command(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stdout == ""
