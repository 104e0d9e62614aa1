"""Block formats against exact rational arithmetic (MX) and a straight-line program (NVFP4)."""

import itertools
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from conftest import ORACLE_DTYPES, assert_same_bits, astype
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim.blocks import (
    MXFP4,
    MXFP6_E2M3,
    MXFP6_E3M2,
    MXFP8_E4M3,
    MXFP8_E5M2,
    NVFP4,
    BlockFormat,
    Blocks,
    block_format_of,
    decode_blocks,
    encode_blocks,
    round_blocks,
)

MX = [MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4]
EVERY = [*MX, NVFP4]
#: the element's largest exponent, from the tables of OFP8 1.0 and OCP MX 1.0
EMAX = {MXFP8_E4M3: 8, MXFP8_E5M2: 15, MXFP6_E3M2: 4, MXFP6_E2M3: 2, MXFP4: 2}
DETERMINISTIC = [
    "ties_to_even", "ties_to_away", "toward_zero", "toward_negative", "toward_positive", "to_odd",
]  # fmt: skip


def magnitudes(fmt):
    """The numbers >= 0 of an element format by code, as ml_dtypes has them."""
    codes = np.arange(2 ** (fmt.element.bits - 1), dtype=np.uint8)
    values = astype(codes.view(ORACLE_DTYPES[fmt.element]), np.float64)
    return [Fraction(v) for v in values.tolist() if math.isfinite(v)]


GRID = {fmt: magnitudes(fmt) for fmt in MX}


def floor_log2(x):
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def element_code(x, negative, grid, mode):
    """The code, without sign, of a magnitude rounded to the grid; beyond its end, the last one."""
    if x >= grid[-1]:
        return len(grid) - 1
    below = max(i for i, number in enumerate(grid) if number <= x)
    if x == grid[below]:
        return below
    middle = (grid[below] + grid[below + 1]) / 2
    odd, even = (below, below + 1) if below % 2 else (below + 1, below)
    if mode == "to_odd":
        return odd
    if mode.startswith("ties") and x != middle:
        return below + (x > middle)
    if mode == "ties_to_even":
        return even
    upward = {"toward_zero": False, "toward_negative": negative, "toward_positive": not negative}
    return below + upward.get(mode, True)


def mx_block(values, fmt, mode="ties_to_even"):
    """OCP MX 1.0, section 6.3, in rational numbers: values, codes, scale code of one block."""
    if not all(map(math.isfinite, values)):
        return [math.nan] * len(values), [0] * len(values), 255
    largest = max(abs(Fraction(v)) for v in values)
    exponent = floor_log2(largest) - EMAX[fmt] if largest else -127
    exponent = min(max(exponent, -127), 127)
    results, codes = [], []
    for v in values:
        negative = math.copysign(1, v) < 0
        magnitude = abs(Fraction(v)) / Fraction(2) ** exponent
        code = element_code(magnitude, negative, GRID[fmt], mode)
        result = float(GRID[fmt][code] * Fraction(2) ** exponent)
        results.append(-result if negative else result)
        codes.append(code + (negative << (fmt.element.bits - 1)))
    return results, codes, exponent + 127


def assert_mx(x, fmt, mode="ties_to_even"):
    """Values and bit patterns of a one-dimensional array against the oracle."""
    blocks = [x[i : i + fmt.size].tolist() for i in range(0, len(x), fmt.size)]
    expected = [mx_block(block, fmt, mode) for block in blocks]
    values = list(itertools.chain.from_iterable(block[0] for block in expected))
    codes = list(itertools.chain.from_iterable(block[1] for block in expected))
    assert_same_bits(round_blocks(x, fmt, mode=mode), np.array(values, x.dtype))
    encoded = encode_blocks(x, fmt, mode=mode)
    assert encoded.codes.tolist() == codes
    assert encoded.scales.tolist() == [block[2] for block in expected]
    assert encoded.tensor_scale == 1
    assert_same_bits(decode_blocks(encoded), np.array(values, x.dtype))


def wide(rng, dtype, blocks, size=32):
    """Blocks whose values have exponents near each other, somewhere in the range of the dtype."""
    info = np.finfo(dtype)
    lowest = info.minexp - info.nmant
    centres = rng.integers(lowest - 5, info.maxexp, (blocks, 1))
    exponents = np.clip(centres - rng.integers(0, 24, (blocks, size)), -1100, 1023)
    values = np.ldexp(rng.uniform(1, 2, (blocks, size)), exponents)
    values *= rng.choice([-1.0, 1.0], values.shape)
    values[rng.random(values.shape) < 0.05] = 0.0
    with np.errstate(all="ignore"):
        return np.clip(values, -info.max, info.max).astype(dtype).ravel()


def edges(dtype):
    """Blocks around powers of two, and at the ends of the range."""
    info = np.finfo(dtype)
    one = dtype(1)
    tiny, huge = info.smallest_subnormal, info.max
    below_two = np.nextafter(dtype(2), one)
    rows = [
        [1.0, -1.0, 0.5, 0.0, -0.0],
        [below_two, one, np.nextafter(one, dtype(0)), -below_two],
        [2.0, 2.25, 3.75, 5.0, 6.0, 7.0, 7.9375, -7.5, 0.25, 0.125],
        [448.0, 464.0, 480.0, 511.0, -465.0, 2.0**-9, 2.0**-10, 3 * 2.0**-10],
        [tiny, -tiny, 3 * tiny, 0.0],
        [tiny * dtype(2) ** 20, tiny, dtype(5) * tiny],
        [info.tiny, np.nextafter(info.tiny, dtype(0)), -tiny],
        [huge, tiny, -one, np.nextafter(huge, one)],
        [2.0**-100, 2.0**-127, 2.0**-126, -(2.0**-128)],
        [0.0, -0.0, 0.0],
        [-0.0],
        [1.0, np.inf, 2.0],
        [-np.inf, -0.0],
        [np.nan, 1.0, -np.inf],
    ]
    return [np.array(row, dtype) for row in rows]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fmt", MX, ids=repr)
def test_mx_of_values_of_all_sizes(fmt, dtype, rng):
    assert_mx(wide(rng, dtype, 150), fmt)
    bits = rng.integers(0, 2**64, 512, dtype=np.uint64)
    assert_mx(bits.view(dtype)[:512], fmt)  # any bit pattern: infinities and NaNs as well


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fmt", MX, ids=repr)
@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_mx_edges_in_every_mode(fmt, mode, dtype, rng):
    for block in edges(dtype):
        assert_mx(block, fmt, mode)
    assert_mx(wide(rng, dtype, 20), fmt, mode)


@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_mx_of_values_that_differ_by_the_whole_range_of_float64(mode):
    # 2^-1074 / 2^127 is no float64, but not zero either
    for largest in (1.0, 2.0**130, np.finfo(np.float64).max):
        assert_mx(np.array([largest, 5e-324, -5e-324, 2.0**-401, -(2.0**-900)]), MXFP4, mode)


@pytest.mark.parametrize("fmt", MX, ids=repr)
def test_mx_halfway_cases(fmt):
    numbers = [float(n) for n in GRID[fmt]]
    halfway = [(a + b) / 2 for a, b in itertools.pairwise(numbers)]
    beside = [np.nextafter(np.float32(h), np.float32(s)) for h in halfway for s in (0, 1e9)]
    cases = np.array([*halfway, *beside], np.float32)
    for scale in (1.0, 2.0**-60):
        for start in range(0, len(cases), 15):
            chunk = cases[start : start + 15]
            x = np.concatenate([[np.float32(2.0 ** EMAX[fmt])], chunk, -chunk])
            assert_mx(x * np.float32(scale), fmt)


@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.sampled_from(MX))
def test_mx_float32(values, fmt):
    assert_mx(np.array(values, np.float32), fmt)


@given(st.lists(st.floats(), min_size=1, max_size=40), st.sampled_from(MX))
def test_mx_float64(values, fmt):
    assert_mx(np.array(values), fmt)


def test_mx_by_hand():
    # max 5, so X = 2^(2 - 2) = 1; 2.5 is a tie
    x = np.array([5.0, 2.5, -0.3, 0.2], np.float32)
    assert round_blocks(x, "mxfp4").tolist() == [4.0, 2.0, -0.5, 0.0]
    # max 7.9 is beyond E2M1's 6 when X = 1: it saturates
    assert round_blocks(np.float32([7.9, 1.2]), "mxfp4").tolist() == [6.0, 1.0]
    blocks = encode_blocks(x * 4, "MXFP4")
    assert blocks.codes.tolist() == [0b0110, 0b0100, 0b1001, 0]
    assert blocks.scales.tolist() == [129]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fmt", MX, ids=repr)
@pytest.mark.parametrize("mode", [*DETERMINISTIC, "stochastic"])
def test_mx_twice_is_once(fmt, mode, dtype, rng):
    # A theorem: max|V|/X is in [2^emax, 2^(emax+1)), unless X is at an end of its range, and
    # rounding keeps it there, as 2^emax is a number of the format; so X stays, and elements do.
    seed = {"rng": 1} if mode == "stochastic" else {}
    for x in (wide(rng, dtype, 100), *edges(dtype)):
        once = round_blocks(x, fmt, mode=mode, **seed)
        assert_same_bits(round_blocks(once, fmt), once)
        assert_same_bits(round_blocks(once, fmt, mode=mode, **seed), once)


def nvfp4_program(x):
    """arXiv 2509.25149, appendix B, in float32 and ml_dtypes: values, codes, scales, s_dec."""
    f32 = np.float32
    with np.errstate(all="ignore"):
        blocks = np.abs(x.reshape(-1, 16))
        amax_b = blocks.max(axis=1)
        amax_x = amax_b.max()
        s_enc = f32(1) if amax_x == 0 else min(f32(6 * 448) / amax_x, np.finfo(f32).max)
        s_dec = f32(1) / s_enc
        s_dec_b = amax_b / f32(6)
        s_e4m3 = np.minimum(s_dec_b * s_enc, f32(448)).astype(ml_dtypes.float8_e4m3fn)
        s_enc_b = np.minimum(f32(1) / (s_e4m3.astype(f32) * s_dec), np.finfo(f32).max)
        scaled = np.clip(x.reshape(-1, 16) * s_enc_b[:, None], f32(-6), f32(6))
        elements = scaled.astype(ml_dtypes.float4_e2m1fn)
        values = elements.astype(f32) * s_e4m3.astype(f32)[:, None] * s_dec
    assert values.dtype == s_dec.dtype == s_dec_b.dtype == scaled.dtype == np.float32
    return values.reshape(x.shape), elements.view(np.uint8).reshape(x.shape), s_e4m3, s_dec


def assert_nvfp4(x):
    values, codes, scales, s_dec = nvfp4_program(x)
    assert_same_bits(round_blocks(x, NVFP4), values)
    encoded = encode_blocks(x, NVFP4)
    assert np.array_equal(encoded.codes, codes)
    assert np.array_equal(encoded.scales.ravel(), scales.view(np.uint8))
    assert encoded.tensor_scale == s_dec
    assert_same_bits(decode_blocks(encoded), values)


def test_nvfp4_of_tensors_of_all_sizes(rng):
    for exponent in range(-149, 128, 4):
        x = rng.standard_normal((8, 64)) * np.exp2(rng.integers(-12, 1, (8, 64)))
        x[rng.random(x.shape) < 0.05] = 0.0
        x /= np.abs(x).max()
        assert_nvfp4(np.ldexp(x, exponent).astype(np.float32))


def test_nvfp4_of_blocks_of_all_sizes(rng):
    x = wide(rng, np.float32, 400, 16).reshape(20, -1)
    for row in x:
        assert_nvfp4(row)
    assert_nvfp4(x)


def test_nvfp4_edges():
    largest = np.finfo(np.float32).max
    tiny = np.finfo(np.float32).smallest_subnormal
    for first in (largest, 1.0, 2.0**-120, 2.0**-126, tiny, -7 * tiny, 0.0, -0.0):
        for others in (largest, 1.0, -(2.0**-130), tiny, 0.0):
            x = np.zeros(48, np.float32)
            x[[0, 16, 17]] = first, others, -0.0
            assert_nvfp4(x)


def test_nvfp4_near_halfway_cases(rng):
    # Here the order of float32 operations decides: amax_block / 6 · s_enc next to the middle of
    # two E4M3 numbers, then x / (s_block · s_dec) next to the middle of two E2M1 numbers.
    for _ in range(20):
        largest = np.float32(np.exp2(rng.uniform(-20, 20)))
        middles = np.ldexp(rng.integers(8, 16, (300, 1)) + 0.5, rng.integers(-9, 5, (300, 1)))
        middles = (middles * 6 / (2688 / np.float64(largest))).astype(np.float32)
        ulps = np.arange(-4, 5, dtype=np.int32)
        x = np.zeros((300, 9, 16), np.float32)
        x[..., 0] = np.minimum((middles.view(np.int32) + ulps).view(np.float32), largest)
        x[0] = largest
        assert_nvfp4(x.reshape(300, -1))
        ties = np.float32([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
        exact = encode_blocks(x, NVFP4)
        factors = fs.decode(exact.scales, "e4m3") * np.float32(exact.tensor_scale)
        near = (ties * factors).view(np.int32) + rng.integers(-2, 3, (300, 9, 7), np.int32)
        x[..., 1:8] = np.minimum(near.view(np.float32), x[..., :1])
        assert_nvfp4(x.reshape(300, -1))


def test_nvfp4_by_hand():
    x = np.zeros((2, 16), np.float32)
    x[0, :4] = 2688.0, 448.0 * 2.5, -224.0, 100.0  # s_enc = 1, the block's scale 448
    x[1, :3] = 6.0, 3.4, -0.2  # scale 1
    encoded = encode_blocks(x, NVFP4)
    assert encoded.tensor_scale == 1
    assert encoded.scales.tolist() == [[0x7E], [0x38]]
    assert decode_blocks(encoded)[0, :4].tolist() == [2688.0, 896.0, -224.0, 0.0]
    assert decode_blocks(encoded)[1, :3].tolist() == [6.0, 3.0, -0.0]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_nvfp4_spoils_only_the_block_of_an_infinity_or_nan(bad, rng):
    x = rng.standard_normal((3, 48)).astype(np.float32)
    x[1, 16:32] = 0
    expected = round_blocks(x, NVFP4)
    x[1, 20] = bad
    expected[1, 16:32] = np.nan
    assert_same_bits(round_blocks(x, NVFP4), expected)
    encoded = encode_blocks(x, NVFP4)
    assert np.argwhere(encoded.scales & 0x7F == 0x7F).tolist() == [[1, 1]]
    assert not encoded.codes[1, 16:32].any()
    assert_same_bits(decode_blocks(encoded), expected)
    assert np.isnan(round_blocks(np.float32([bad]), NVFP4)).all()


def test_nvfp4_of_float64(rng):
    x = wide(rng, np.float32, 30, 16)
    single, double = encode_blocks(x, NVFP4), encode_blocks(x.astype(np.float64), NVFP4)
    assert np.array_equal(single.codes, double.codes)
    assert np.array_equal(single.scales, double.scales)
    assert single.tensor_scale == double.tensor_scale
    values = round_blocks(x.astype(np.float64), NVFP4)
    elements = astype(double.codes.view(ml_dtypes.float4_e2m1fn), np.float64)
    scales = astype(double.scales.view(ml_dtypes.float8_e4m3fn), np.float64)
    assert_same_bits(values, elements * np.repeat(scales, 16) * double.tensor_scale)
    # rounded to float32 first: 1 + 2^-40 is 1 there
    near = np.array([1 + 2.0**-40, 0.4])
    assert_same_bits(round_blocks(near, NVFP4), round_blocks(np.array([1.0, 0.4]), NVFP4))
    halfway = np.zeros((2, 16))
    halfway[:, :2] = [[2688.0, 0.0], [6.0, 2.5 + 2.0**-40]]  # which is 2.5, and a tie
    assert round_blocks(halfway, NVFP4)[1, 1] == 2.0
    largest = float(np.finfo(np.float32).max)
    assert np.isfinite(round_blocks(np.array([largest * (1 + 2.0**-26)]), NVFP4)).all()
    with pytest.raises(ValueError, match=r"x has the value .*1e\+39.*, which is too large for flo"):
        round_blocks(np.array([1.0, 1e39]), NVFP4)


def test_one_level_of_e4m3_scales():
    fmt = BlockFormat("one level", fs.E2M1, fs.E4M3, 16)
    x = np.float32([6.0, 3.4, -0.2] + [0.0] * 13 + [3.0])
    encoded = encode_blocks(x, fmt)
    assert encoded.tensor_scale == 1
    assert encoded.scales.tolist() == [0x38, 0x30]
    assert decode_blocks(encoded)[[0, 1, 2, 16]].tolist() == [6.0, 3.0, -0.0, 3.0]
    assert round_blocks(np.float32([1e6]), fmt).tolist() == [2688.0]  # scale and element saturate


@pytest.mark.parametrize("fmt", EVERY, ids=repr)
def test_any_axis_and_layout(fmt, rng):
    x = rng.standard_normal((5, 70, 3)).astype(np.float32)
    kept = x.copy()
    for axis in (-3, -2, -1, 0, 1, 2, np.int64(1)):
        moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        expected = np.moveaxis(round_blocks(moved, fmt), -1, axis)
        result = round_blocks(x, fmt, axis)
        assert_same_bits(result, np.ascontiguousarray(expected))
        assert result.flags.c_contiguous
        encoded = encode_blocks(x, fmt, axis)
        blocks = list(x.shape)
        blocks[axis] = math.ceil(blocks[axis] / fmt.size)
        assert encoded.codes.shape == x.shape
        assert encoded.scales.shape == tuple(blocks)
        assert encoded.codes.dtype == encoded.scales.dtype == np.uint8
        assert encoded.axis == axis % 3
        assert_same_bits(decode_blocks(encoded), result)
    assert_same_bits(round_blocks(x[::-1, ::2].T, fmt), round_blocks(x[::-1, ::2].T.copy(), fmt))
    assert_same_bits(x, kept)
    frozen = np.arange(1.0, 9.0)
    frozen.flags.writeable = False
    assert round_blocks(frozen, fmt) is not frozen


@pytest.mark.parametrize("fmt", EVERY, ids=repr)
def test_short_last_block_is_as_if_zeros_filled_it(fmt, rng):
    x = rng.standard_normal((3, 41)).astype(np.float32)
    for length in (1, fmt.size - 1, fmt.size, fmt.size + 1, 41):
        short = x[:, :length]
        filled = np.pad(short, ((0, 0), (0, -length % fmt.size)))
        encoded, whole = encode_blocks(short, fmt), encode_blocks(filled, fmt)
        assert_same_bits(round_blocks(short, fmt), round_blocks(filled, fmt)[:, :length])
        assert np.array_equal(encoded.codes, whole.codes[:, :length])
        assert np.array_equal(encoded.scales, whole.scales)


@pytest.mark.parametrize("fmt", EVERY, ids=repr)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (0, 40)])
def test_empty(fmt, shape):
    x = np.zeros(shape, np.float32)
    assert_same_bits(round_blocks(x, fmt), x)
    encoded = encode_blocks(x, fmt)
    assert encoded.scales.shape == (*shape[:-1], math.ceil(shape[-1] / fmt.size))
    assert_same_bits(decode_blocks(encoded), x)


@pytest.mark.parametrize("fmt", EVERY, ids=repr)
def test_zeros_get_a_scale_and_keep_their_signs(fmt):
    x = np.float32([0.0, -0.0] * 20)
    assert_same_bits(round_blocks(x, fmt), x)
    assert not encode_blocks(x, fmt).scales.any()


@pytest.mark.parametrize("fmt", EVERY, ids=repr)
def test_dtypes(fmt, rng):
    x = rng.standard_normal(40).astype(np.float16)
    expected = round_blocks(x.astype(np.float32), fmt)
    assert_same_bits(round_blocks(x, fmt), expected)
    assert_same_bits(round_blocks(x.astype(">f4"), fmt), expected)
    brain = x.astype(ml_dtypes.bfloat16)
    assert_same_bits(round_blocks(brain, fmt), round_blocks(brain.astype(np.float32), fmt))
    assert round_blocks([[1.0, 2.0]], fmt).dtype == np.float64
    encoded = encode_blocks(x.astype(np.float64), fmt)
    assert encoded.dtype == np.float64
    assert_same_bits(decode_blocks(encoded), round_blocks(x.astype(np.float64), fmt))


@pytest.mark.parametrize("fmt", EVERY, ids=repr)
def test_stochastic(fmt, rng):
    x = np.tile(rng.uniform(-1, 1, (1, 32)).astype(np.float32), (20000, 1))
    x[:, [0, 16]] = 1.0  # the largest, a number of the format in MX
    result = round_blocks(x, fmt, mode="stochastic", rng=3)
    assert_same_bits(result, decode_blocks(encode_blocks(x, fmt, mode="stochastic", rng=3)))
    assert not np.array_equal(result, round_blocks(x, fmt, mode="stochastic", rng=4))
    below = round_blocks(x, fmt, mode="toward_negative")
    above = round_blocks(x, fmt, mode="toward_positive")
    assert ((result == below) | (result == above)).all()
    # Unbiased: the mean is x, except for NVFP4's largest, which may saturate. Six sigmas.
    inner = (below[0] <= x[0]) & (x[0] <= above[0])
    assert inner[fmt is NVFP4 :].sum() >= 28
    error = np.abs(result.mean(axis=0, dtype=np.float64) - x[0])
    assert (error <= 3 * (above[0] - below[0]) / np.sqrt(len(x)) + 1e-9)[inner].all()


def test_formats():
    assert [fmt.bits for fmt in EVERY] == [8.25, 8.25, 6.25, 6.25, 4.25, 4.5]
    assert [fmt.size for fmt in EVERY] == [32] * 5 + [16]
    assert NVFP4.max == 2688
    assert MXFP4.max == 6 * 2.0**127
    for fmt in EVERY:
        assert block_format_of(repr(fmt).upper()) is block_format_of(fmt) is fmt
    eighth = BlockFormat("eighth", fs.E2M1, fs.E8M0, 4)
    assert eighth.bits == 6
    whole = BlockFormat("whole", fs.E2M1, fs.E8M0, 2**40)  # one block, however long the array
    assert encode_blocks(np.ones(100), whole).scales.tolist() == [125]
    assert round_blocks([1.0] * 4 + [100.0] * 4, eighth).tolist() == [1.0] * 4 + [96.0] * 4


X = np.ones((2, 40), np.float32)
CODES = np.zeros((2, 40), np.uint8)
SCALES = np.zeros((2, 2), np.uint8)
SINGLE = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda: round_blocks(X, "mxfp5"), ValueError, "fmt='mxfp5' is not a known block format"),
        (lambda: round_blocks(X, "e4m3"), ValueError, "known are mxfp8_e4m3, .*, mxfp4, nvfp4"),
        (lambda: round_blocks(X, fs.E4M3), TypeError, "fmt must be a BlockFormat or a name, got e"),
        (lambda: round_blocks(X, "mxfp4", 2), ValueError, "axis=2 .* it must be from -2 to 1"),
        (lambda: encode_blocks(X, "mxfp4", -3), ValueError, "axis=-3 .* from -2 to 1"),
        (lambda: round_blocks(X, "mxfp4", 0.5), TypeError, "axis must be an integer, got 0.5"),
        (lambda: round_blocks(X, "mxfp4", (0, 1)), TypeError, r"axis must be an integer, got \(0"),
        (lambda: round_blocks(1.0, "mxfp4"), ValueError, r"x has the shape \(\); it must have at"),
        (lambda: round_blocks([1, 2], "nvfp4"), TypeError, "x has dtype int64"),
        (lambda: encode_blocks([True], "mxfp4"), TypeError, "x has dtype bool"),
        (lambda: round_blocks(X, "mxfp4", mode="up"), ValueError, "mode='up' is not known"),
        (lambda: round_blocks(X, "nvfp4", mode="stochastic"), ValueError, "rng=None is not allow"),
        (lambda: round_blocks(X, "mxfp4", rng=1), ValueError, "rng .* for mode='stochastic' only"),
        (lambda: decode_blocks(CODES), TypeError, "blocks must be Blocks from encode_blocks, got"),
        (
            lambda: decode_blocks(Blocks(CODES + 16, SCALES, 1.0, MXFP4, 1, SINGLE)),
            ValueError,
            r"bits has patterns outside of 0 to 2\^4 - 1",
        ),
        (
            lambda: Blocks(CODES, CODES, 1.0, MXFP4, 1, SINGLE),
            ValueError,
            r"scales has dtype uint8 and shape \(2, 40\); it must be uint8 with the shape \(2, 2\)",
        ),
        (
            lambda: Blocks(CODES.astype(np.int8), SCALES, 1.0, MXFP4, 1, SINGLE),
            ValueError,
            "codes has dtype int8",
        ),
        (lambda: Blocks(CODES, SCALES, 0.0, NVFP4, 1, SINGLE), ValueError, "tensor_scale=0.0 is"),
        (lambda: Blocks(CODES, SCALES, 1.0, MXFP4, 2, SINGLE), ValueError, "axis=2 is not allow"),
        (lambda: BlockFormat("", fs.E2M1, fs.E8M0, 32), ValueError, "name must be a non-empty"),
        (lambda: BlockFormat("f", fs.E2M1, fs.E8M0, 0), ValueError, "size=0 is not allowed"),
        (lambda: BlockFormat("f", fs.E2M1, fs.E8M0, 1.5), TypeError, "size must be an integer"),
        (lambda: BlockFormat("f", "e2m1", fs.E8M0, 32), TypeError, "element must be a Format"),
        (lambda: BlockFormat("f", fs.FP16, fs.E8M0, 32), ValueError, "element=fp16 .* 8 bits"),
        (lambda: BlockFormat("f", fs.E8M0, fs.E8M0, 32), ValueError, "element=e8m0 .* a sign"),
        (lambda: BlockFormat("f", fs.E2M1, fs.E2M3, 32), ValueError, "scale=e2m3 .* must have NaN"),
        (
            lambda: BlockFormat("f", fs.E2M1, fs.E8M0, 32, tensor_scale=True),
            ValueError,
            "tensor_scale=True needs a signed scale format, not e8m0",
        ),
    ],
)
def test_bad_input_is_named(action, error, message):
    with pytest.raises(error, match=message):
        action()


def test_decoding_beyond_float32_gives_infinity():
    blocks = Blocks(np.uint8([0x7E]), np.uint8([254]), 1.0, MXFP8_E4M3, 0, SINGLE)
    assert decode_blocks(blocks).tolist() == [math.inf]
