"""encode and decode against the bits that NumPy and ml_dtypes keep in memory."""

import math

import ml_dtypes
import numpy as np
import pytest
from conftest import ORACLE_DTYPES, assert_same_bits, astype
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs


@pytest.mark.parametrize("fmt", ORACLE_DTYPES, ids=repr)
def test_every_code_of_every_small_format(fmt):
    codes = np.arange(2**fmt.bits, dtype=np.uint16 if fmt.bits > 8 else np.uint8)
    values = astype(codes.view(ORACLE_DTYPES[fmt]), np.float32)
    decoded = fs.decode(codes, fmt)
    assert_same_bits(decoded, values)
    numbers = ~np.isnan(values)
    encoded = fs.encode(values[numbers], fmt)
    assert encoded.dtype == codes.dtype
    assert np.array_equal(encoded, codes[numbers])


@given(st.floats(width=32))
def test_float32(x):
    x = np.float32(x)
    assert_same_bits(fs.decode(x.view(np.uint32), "fp32"), x)
    if not np.isnan(x):
        assert fs.encode(x, "fp32") == x.view(np.uint32)


@given(st.floats())
def test_float64(x):
    x = np.float64(x)
    assert_same_bits(fs.decode(x.view(np.uint64), "fp64"), x)
    if not np.isnan(x):
        assert fs.encode(x, "fp64") == x.view(np.uint64)


def test_nan_is_the_quiet_one():
    for fmt, dtype in ((fs.FP16, np.float16), (fs.E4M3, ml_dtypes.float8_e4m3fn)):
        code = fs.encode([np.nan, -np.nan], fmt)
        assert np.isnan(fs.decode(code, fmt)).all()
        expected = np.array([np.nan], dtype).view(code.dtype)[0]
        assert code.tolist() == [expected, expected]


def test_formats_of_odd_sizes():
    assert fs.encode(1.5, "tf32") == (127 << 10) | (1 << 9)
    assert fs.encode(1.5, "tf32").dtype == np.uint32
    assert fs.decode(0b1_10_1, "e2m1") == -3.0
    assert fs.encode([1.0, -6.0], "e2m1").dtype == np.uint8


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (
            {"emax": 1},
            0b0_110_00,
        ),  # seven exponent codes of eight are used; infinity is the top one
        ({"emax": 2, "subnormals": False}, 0b0_000_01),
        ({"emax": 2, "signed_zero": False}, 0b1_000_00),
        ({"emax": 3, "signed_zero": False, "infinities": False, "nans": False}, 0b1_000_00),
        ({"emax": 2, "infinities": False, "nans": False}, 0b1_111_00),
        ({"emax": 2, "infinities": False}, 0b1_111_10),
    ],
)
def test_patterns_that_stand_for_nothing_are_refused(fields, code):
    fmt = fs.Format(name="f", precision=3, emin=-3, **fields)
    assert fmt.bits == 6
    with pytest.raises(ValueError, match=f"bits has the pattern {code:#x}, which f does not use"):
        fs.decode(code, fmt)


@pytest.mark.parametrize(
    ("fmt", "value"),
    [
        (fs.E8M0, 0.0),
        (fs.E8M0, -1.0),
        (fs.E8M0, 3.0),
        (fs.E8M0, math.inf),
        (fs.Format(name="f", precision=3, emin=-3, emax=3, signed_zero=False), -0.0),
        (fs.Format(name="f", precision=3, emin=-3, emax=3, subnormals=False), 2.0**-4),
        (fs.Format(name="f", precision=3, emin=-3, emax=3, subnormals=False), 2.0**-5),
    ],
)
def test_numbers_that_a_format_lacks_are_refused(fmt, value):
    with pytest.raises(ValueError, match=f"x has the value .*{value}.*, which {fmt} does not have"):
        fs.encode(value, fmt)


def test_shapes_and_scalars():
    assert fs.decode([[0x3C00, 0xBC00]], "fp16").tolist() == [[1.0, -1.0]]
    assert fs.decode(np.zeros((0, 3), np.uint16), "fp16").shape == (0, 3)
    assert fs.encode(np.zeros((0, 3)), "fp16").shape == (0, 3)
    assert isinstance(fs.encode(1.0, "fp16"), np.uint16)
    assert isinstance(fs.decode(0x3C00, "fp16"), np.float32)
    assert isinstance(fs.decode(np.array([0x3C00], np.uint16), "fp16"), np.ndarray)
    assert fs.decode([], "fp16").shape == (0,)
    nine_bits = fs.Format(name="nine", precision=4, emin=-14, emax=15)
    assert fs.encode(1.0, nine_bits).dtype == np.uint16


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (
            lambda: fs.encode(0.1, "fp16"),
            ValueError,
            "x has the value .*0.1.*, which fp16 does not",
        ),
        (lambda: fs.encode(2.0**-25, "fp16"), ValueError, "which fp16 does not have"),
        (lambda: fs.encode(65536.0, "fp16"), ValueError, "which fp16 does not have"),
        (lambda: fs.encode(480.0, "e4m3"), ValueError, "which e4m3 does not have"),
        (lambda: fs.encode(np.inf, "e4m3"), ValueError, "inf.*, which e4m3 does not have"),
        (lambda: fs.encode(np.nan, "e2m1"), ValueError, "nan.*, which e2m1 does not have"),
        (lambda: fs.encode(1, "fp16"), TypeError, "x has dtype int64"),
        (lambda: fs.decode(1.0, "fp16"), TypeError, "bits has dtype float64"),
        (lambda: fs.decode(np.int16([1]), "fp16"), TypeError, "bits has dtype int16"),
        (lambda: fs.decode(True, "fp16"), TypeError, "bits has dtype bool"),
        (lambda: fs.decode([-1, 5], "fp16"), ValueError, r"outside of 0 to 2\^16 - 1"),
        (lambda: fs.decode(0x10000, "fp16"), ValueError, r"outside of 0 to 2\^16 - 1"),
        (lambda: fs.decode(np.uint8(16), "e2m1"), ValueError, r"outside of 0 to 2\^4 - 1"),
    ],
)
def test_bad_input_is_named(action, error, message):
    with pytest.raises(error, match=message):
        action()


@pytest.mark.parametrize("fmt", ["fp16", "fp32", "fp64"])
def test_one_number_gives_one_number(fmt):
    code = fs.encode(1.5, fmt)
    assert isinstance(code, np.unsignedinteger)
    assert isinstance(fs.decode(code, fmt), np.floating)
    assert fs.decode(code, fmt) == 1.5
    assert isinstance(fs.encode([1.5], fmt), np.ndarray)
    assert isinstance(fs.decode(np.array([code]), fmt), np.ndarray)
