"""round_to against exact rational arithmetic, NumPy, ml_dtypes, and the laws of rounding."""

import warnings
from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from conftest import EXECUTORS, ORACLE_DTYPES, assert_same_bits, astype
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim import events, rounding
from fp16sim.kernels import cpu, reference

ALL_FP16 = np.arange(65536, dtype=np.uint16).view(np.float16)
FORMATS = [fs.FP32, fs.TF32, *ORACLE_DTYPES]

floats32 = st.floats(width=32, allow_nan=False)
floats64 = st.floats(allow_nan=False)
formats = st.sampled_from(FORMATS)


@pytest.fixture(autouse=True, scope="module", params=EXECUTORS, ids=lambda e: e.__name__[16:])
def executor(request):
    """Every test here runs once for every executor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "executor_for", lambda x: request.param)
        yield request.param


def neighbourhood(values):
    """Values with their neighbours on both sides, in their dtype."""
    with np.errstate(all="ignore"):
        below, above = np.nextafter(values, -np.inf), np.nextafter(values, np.inf)
    return np.concatenate([below, values, above])


def midpoints_of_fp16():
    """Every midpoint of two neighbouring finite fp16 numbers, in float64, with 65520 and -65520."""
    finite = np.sort(ALL_FP16[np.isfinite(ALL_FP16)].astype(np.float64))
    finite = np.concatenate([[-65536.0], np.unique(finite), [65536.0]])
    return (finite[:-1] + finite[1:]) / 2


class TestFp16Exhaustively:
    def test_every_value_is_its_own_rounding(self):
        for dtype in (np.float32, np.float64):
            values = astype(ALL_FP16, dtype)
            assert_same_bits(fs.round_to(values, fs.FP16), values)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_every_midpoint_and_its_neighbours(self, dtype):
        x = neighbourhood(midpoints_of_fp16().astype(dtype))  # exact: 12 bits
        expected = np.array([reference.round_to(float(v), fs.FP16) for v in x], dtype)
        assert_same_bits(fs.round_to(x, fs.FP16), expected)
        assert_same_bits(expected, astype(astype(x, np.float16), dtype))  # the oracle's oracle

    def test_neighbours_of_every_value(self):
        x = neighbourhood(astype(ALL_FP16, np.float32))
        assert_same_bits(fs.round_to(x, fs.FP16), astype(astype(x, np.float16), np.float32))


@pytest.mark.parametrize("fmt", ORACLE_DTYPES, ids=repr)
def test_random_float32_bit_patterns_against_numpy_and_ml_dtypes(fmt, rng):
    x = rng.integers(0, 2**32, 1_000_000, dtype=np.uint32).view(np.float32)
    x = x if fmt.nans else x[~np.isnan(x)]  # ml_dtypes has to make something else of NaN there
    assert_same_bits(fs.round_to(x, fmt), astype(astype(x, ORACLE_DTYPES[fmt]), np.float32))


@pytest.mark.parametrize("fmt", ORACLE_DTYPES, ids=repr)
def test_every_value_of_every_small_format_round_trips(fmt):
    dtype = ORACLE_DTYPES[fmt]
    codes = np.arange(2**fmt.bits, dtype=np.uint16 if fmt.bits > 8 else np.uint8)
    values = astype(codes.view(dtype), np.float32)
    assert_same_bits(fs.round_to(values, fmt), values)


@pytest.mark.parametrize("fmt", FORMATS, ids=repr)
@pytest.mark.parametrize("saturate", [False, True])
def test_against_exact_arithmetic(fmt, saturate, rng):
    """Random values around the format's range, and around midpoints, from float64."""
    exponents = rng.integers(fmt.emin - fmt.precision - 3, fmt.emax + 3, 3000)
    grid = rng.integers(0, 2**fmt.precision, 3000) * 2.0 ** -(fmt.precision - 1)
    ties = np.ldexp(grid + 2.0**-fmt.precision, np.minimum(exponents, 1000))
    x = np.concatenate([neighbourhood(ties), np.ldexp(rng.uniform(1, 2, 3000), exponents)])
    x *= rng.choice([-1.0, 1.0], x.shape)
    specials = [0.0, -0.0, np.inf, -np.inf, fmt.max, -fmt.max, fmt.smallest_subnormal / 2, np.nan]
    x = np.concatenate([x, specials])
    expected = np.array([reference.round_to(float(v), fmt, saturate=saturate) for v in x])
    assert_same_bits(fs.round_to(x, fmt, saturate=saturate), expected)
    with np.errstate(over="ignore", under="ignore"):
        x32 = x.astype(np.float32)
    expected = [reference.round_to(float(v), fmt, saturate=saturate) for v in x32]
    assert_same_bits(fs.round_to(x32, fmt, saturate=saturate), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("x", "fmt", "expected"),
    [
        # float64 input that a detour through float32 would round twice
        (1 + 2.0**-11 + 2.0**-40, "fp16", 1 + 2.0**-10),
        (65520 - 2.0**-30, "fp16", 65504.0),
        (1 + 2.0**-8 + 2.0**-40, "bf16", 1 + 2.0**-7),
        (1 + 2.0**-4 + 2.0**-40, "e4m3", 1.125),
        (2.0**-25, "fp16", 0.0),
        (2.0**-25 * (1 + 2.0**-52), "fp16", 2.0**-24),
        (65520.0, "fp16", np.inf),
        (1 + 2.0**-24 + 2.0**-50, "fp32", 1 + 2.0**-23),
        (464.0, "e4m3", 448.0),
        (465.0, "e4m3", np.nan),
        (61440.0, "e5m2", np.inf),
        (1e30, "e2m1", 6.0),
        (-1e-30, "fp16", -0.0),
    ],
)
def test_known_cases(x, fmt, expected):
    for sign in (1.0, -1.0):
        assert_same_bits(fs.round_to(np.array([sign * x]), fmt), np.array([sign * expected]))


class TestLaws:
    @given(floats64, formats)
    def test_idempotent(self, x, fmt):
        once = fs.round_to(x, fmt)
        assert_same_bits(fs.round_to(once, fmt), once)

    @given(floats64, floats64, formats)
    def test_monotone(self, x, y, fmt):
        low, high = fs.round_to(sorted([x, y]), fmt, saturate=True)
        assert low <= high

    @given(floats64, formats)
    def test_odd(self, x, fmt):
        assert_same_bits(fs.round_to(-x, fmt), -fs.round_to(x, fmt))

    @given(floats64, formats)
    def test_error_is_at_most_half_an_ulp(self, x, fmt):
        rounded = float(fs.round_to(x, fmt))
        if abs(x) <= fmt.max:
            exponent = max(int(np.frexp(x)[1]) - 1, fmt.emin)
            ulp = Fraction(2) ** (exponent - fmt.precision + 1)
            assert abs(Fraction(rounded) - Fraction(x)) <= ulp / 2

    @given(floats64, st.sampled_from(list(ORACLE_DTYPES)))
    def test_lies_between_the_neighbours_of_x(self, x, fmt):
        """No number of the format is nearer, and none lies strictly between x and its rounding."""
        rounded = fs.round_to(x, fmt, saturate=True)
        if abs(x) > fmt.max:
            assert abs(rounded) == fmt.max
            return
        dtype = ORACLE_DTYPES[fmt]
        here = np.array(rounded, dtype)
        with np.errstate(all="ignore"):
            neighbours = [
                float(np.nextafter(here, np.array(s, dtype))) for s in (-fmt.max, fmt.max)
            ]
        assert neighbours[0] <= x <= neighbours[1]
        assert all(abs(rounded - x) <= abs(n - x) for n in neighbours)

    @given(st.floats(width=32))
    def test_float32_and_float64_input_agree(self, x):
        for fmt in FORMATS:
            narrow = fs.round_to(np.float32(x), fmt)
            assert_same_bits(np.float64(narrow), fs.round_to(np.float64(x), fmt))


#: infinities and NaN, NaN alone, neither
SPECIALS = [{}, {"infinities": False}, {"infinities": False, "nans": False}]


class TestOtherFormats:
    """Any precision and exponent range that the carrier can hold."""

    @given(
        st.integers(2, 23),
        st.integers(-126, 0),
        st.integers(1, 127),
        st.sampled_from(SPECIALS),
        st.lists(st.floats(width=32), min_size=1, max_size=20),
        st.booleans(),
    )
    def test_float32(self, precision, emin, emax, specials, values, saturate):
        fmt = fs.Format(name="any", precision=precision, emin=emin, emax=emax, **specials)
        x = np.array(values, np.float32)
        expected = [reference.round_to(v, fmt, saturate=saturate) for v in x.tolist()]
        assert_same_bits(fs.round_to(x, fmt, saturate=saturate), np.array(expected, np.float32))

    @pytest.mark.parametrize("precision", [2, 12, 21, 22, 23])
    @pytest.mark.parametrize("emin", [-126, -100])
    @pytest.mark.parametrize("emax", [100, 115, 126, 127])
    def test_at_the_borders_of_the_kernels(self, precision, emin, emax, rng):
        """Little room between format and float32, in significand or exponent; random bits."""
        fmt = fs.Format(name="near", precision=precision, emin=emin, emax=emax)
        bits = rng.integers(0, 2**32, 500, dtype=np.uint32)
        edges = (emin + rng.integers(-2, 2, 250), emax + rng.integers(-2, 2, 250))
        codes = np.clip(np.concatenate(edges) + 127, 0, 254).astype(np.uint32)
        bits = (bits & 0x807FFFFF) | (codes << 23)
        bits[::3] &= np.uint32(0xFFFFFFFF << (23 - precision) & 0xFFFFFFFF)  # ties, too
        x = bits.view(np.float32)
        expected = [reference.round_to(float(v), fmt) for v in x]
        assert_same_bits(fs.round_to(x, fmt), np.array(expected, np.float32))

    @given(
        st.integers(2, 53),
        st.integers(-1022, 0),
        st.integers(1, 1023),
        st.sampled_from(SPECIALS),
        st.lists(st.floats(), min_size=1, max_size=20),
        st.booleans(),
    )
    def test_float64(self, precision, emin, emax, specials, values, saturate):
        fmt = fs.Format(name="any", precision=precision, emin=emin, emax=emax, **specials)
        x = np.array(values)
        expected = np.array([reference.round_to(v, fmt, saturate=saturate) for v in values])
        assert_same_bits(fs.round_to(x, fmt, saturate=saturate), expected)

    def test_float64_with_a_shorter_range(self):
        fmt = fs.FP64.with_range_of(fs.FP16)
        x = np.array([1 / 3, 2.0**-14 / 3, 65536.0, -1e-300])
        expected = np.array([1 / 3, round(2.0**52 / 3) * 2.0**-66, np.inf, -0.0])
        assert_same_bits(fs.round_to(x, fmt), expected)

    def test_wider_than_the_carrier(self):
        """What a float32 array cannot hold of the format does not matter, or is refused."""
        x = np.float32([1e-45, np.inf])
        assert_same_bits(fs.round_to(x, "fp64", subnormals=False), x)
        wide = fs.Format(name="w", precision=24, emin=-126, emax=128, infinities=False, nans=False)
        for arguments in ({"fmt": wide}, {"fmt": "fp64", "saturate": True}):
            with pytest.raises(ValueError, match="does not fit float32 values"):
                fs.round_to(x, **arguments)

    def test_what_does_not_fit_is_refused(self):
        fmt = fs.Format(name="long", precision=30, emin=-14, emax=15)
        with pytest.raises(ValueError, match=r"fmt=long does not fit float32.*float64"):
            fs.round_to(np.ones(3, np.float32), fmt)
        assert fs.round_to(1 / 3, fmt) == reference.round_to(1 / 3, fmt)

    def test_a_wider_format_leaves_values_alone(self, rng):
        x = rng.standard_normal(100).astype(np.float32)
        assert_same_bits(fs.round_to(x, "fp64"), x)


#: what formats may lack; the dictionaries give fields of Format
UNUSUAL = [
    {"subnormals": False},
    {"signed_zero": False},
    {"subnormals": False, "signed_zero": False, "infinities": False},
    {"signed_zero": False, "infinities": False, "nans": False},
    {"signed": False, "signed_zero": False, "subnormals": False, "infinities": False},
]


class TestUnusualFormats:
    """Without subnormals, without minus zero, without any sign or zero."""

    @given(
        st.sampled_from([*reference.GOES_UP, "stochastic"]),
        st.sampled_from(UNUSUAL),
        st.integers(2, 24),
        st.integers(-126, 0),
        st.integers(1, 127),
        st.booleans(),
        st.randoms(use_true_random=False),
    )
    def test_against_exact_arithmetic(self, mode, fields, precision, emin, emax, saturate, random):
        fmt = fs.Format(name="any", precision=precision, emin=emin, emax=emax, **fields)
        edges = [0.0, fmt.smallest_normal, fmt.smallest_normal / 2, fmt.max, 2.0**emax * 2]
        x = [edge * random.choice([1, 1.5, 1 - 2**-20, 1 + 2**-20, 2**-3]) for edge in edges]
        x += [random.uniform(-2, 2) * 2.0 ** random.randint(emin - 4, emax + 1) for _ in range(20)]
        with np.errstate(over="ignore"):
            x = np.array([*x, *(-v for v in x), np.inf, -np.inf, np.nan]).astype(np.float32)
        draws, arguments = [None] * x.size, {}
        if mode == "stochastic":
            arguments = {"rng": 5}
            bits = np.random.default_rng(5).integers(0, 2**32, x.size, dtype=np.uint32)
            draws = [Fraction(d, 2**32) for d in bits.tolist()]
        expected = [
            reference.round_to(v, fmt, mode, saturate, d)
            for v, d in zip(x.tolist(), draws, strict=True)
        ]
        for dtype in (np.float32, np.float64):
            ours = fs.round_to(x.astype(dtype), fmt, mode, saturate=saturate, **arguments)
            assert_same_bits(ours, np.array(expected, dtype))

    @pytest.mark.parametrize("fields", UNUSUAL)
    def test_results_are_the_nearest_numbers(self, fields, rng):
        """Against a search through the format's own list of numbers; ties left out."""
        fmt = fs.Format(name="any", precision=3, emin=-3, emax=3, **fields)
        numbers = np.array([v for v in fmt if np.isfinite(v)])
        x = rng.uniform(0.01 if not fmt.signed else fmt.min, fmt.max, 2000)
        distances = abs(x[:, None] - numbers)
        nearest = distances.argmin(axis=1)
        unique = (distances == distances.min(axis=1)[:, None]).sum(axis=1) == 1
        unique |= numbers[nearest] == 0  # both zeros
        assert np.array_equal(fs.round_to(x, fmt)[unique], numbers[nearest][unique])

    @pytest.mark.parametrize("mode", [*reference.GOES_UP])
    def test_flushing_differs_from_having_no_subnormals(self, mode):
        fmt = fs.Format(name="gap", precision=11, emin=-14, emax=15, subnormals=False)
        x = np.array([0.9, 0.4, -0.4, -0.9]) * 2.0**-14
        rounded = fs.round_to(x, fmt, mode)
        assert set(abs(rounded) / 2.0**-14) <= {0.0, 1.0}
        assert_same_bits(fs.round_to(x, fmt, mode, subnormals=False), rounded)
        flushed = fs.round_to(x, "fp16", mode, subnormals=False)
        assert_same_bits(flushed, np.copysign(0.0, x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", [*reference.GOES_UP])
@pytest.mark.parametrize("signed", [True, False])
def test_precision_1(mode, signed, dtype):
    """The kept bit is the implicit one: always odd. Ties, and what is around them, everywhere."""
    fields = {} if signed else {"subnormals": False, "signed_zero": False, "signed": False}
    fmt = fs.Format(name="p", precision=1, emin=-100, emax=100, infinities=False, **fields)
    powers = 2.0 ** np.arange(-103, 103)
    x = neighbourhood(np.concatenate([powers, 1.25 * powers, 1.5 * powers]).astype(dtype))
    x = np.concatenate([x, -x])
    expected = [reference.round_to(v, fmt, mode) for v in x.tolist()]
    assert_same_bits(fs.round_to(x, fmt, mode), np.array(expected, dtype))


@pytest.mark.parametrize("mode", [*reference.GOES_UP])
@pytest.mark.parametrize(("dtype", "emin", "emax"), [("f4", -126, 127), ("f8", -1022, 1023)])
@pytest.mark.parametrize("precision", [8, 23])
def test_no_subnormals_where_the_carrier_has_its_own(mode, dtype, emin, emax, precision, rng):
    fmt = fs.Format(name="f", precision=precision, emin=emin, emax=emax, subnormals=False)
    x = np.concatenate([rng.uniform(-2, 2, 200), [0.5, -0.5, 0.75, 2.0**-20, 0.0, -0.0, 1.0]])
    x = (x * fmt.smallest_normal).astype(dtype)
    expected = [reference.round_to(v, fmt, mode) for v in x.tolist()]
    assert_same_bits(fs.round_to(x, fmt, mode), np.array(expected, dtype))


@pytest.mark.parametrize("specials", SPECIALS)
@pytest.mark.parametrize("emax", [-1, -5, -100])
@pytest.mark.parametrize("saturate", [False, True])
def test_formats_of_small_numbers_only(specials, emax, saturate, rng):
    fmt = fs.Format(name="f", precision=4, emin=emax - 8, emax=emax, **specials)
    x = rng.standard_normal(500) * 2.0 ** (emax - rng.integers(-2, 14, 500))
    for dtype in (np.float32, np.float64):
        values = np.concatenate([x, [0.0, -0.0, fmt.max, np.inf, np.nan]]).astype(dtype)
        expected = [reference.round_to(v, fmt, saturate=saturate) for v in values.tolist()]
        assert_same_bits(fs.round_to(values, fmt, saturate=saturate), np.array(expected, dtype))


def test_a_format_with_all_bits_but_without_infinities():
    for fields in ({"nans": False}, {}):
        for dtype, fmt in ((np.float32, fs.FP32), (np.float64, fs.FP64)):
            bounded = replace(fmt, name="b", infinities=False, **fields)
            result = fs.round_to(np.array([np.inf, -np.inf, 1.0], dtype), bounded)
            expected = [reference.round_to(v, bounded) for v in (np.inf, -np.inf, 1.0)]
            assert_same_bits(result, np.array(expected, dtype))


#: ml_dtypes that fp16sim has no names for, as formats
OTHER_ML_DTYPES = {
    "float8_e4m3": {"precision": 4, "emin": -6, "emax": 7},
    "float8_e3m4": {"precision": 5, "emin": -2, "emax": 3},
    "float8_e4m3fnuz": {
        "precision": 4, "emin": -7, "emax": 7, "infinities": False, "signed_zero": False,
    },
    "float8_e5m2fnuz": {
        "precision": 3, "emin": -15, "emax": 15, "infinities": False, "signed_zero": False,
    },
    "float8_e4m3b11fnuz": {
        "precision": 4, "emin": -10, "emax": 4, "infinities": False, "signed_zero": False,
    },
    "float8_e8m0fnu": {
        "precision": 1, "emin": -127, "emax": 127, "infinities": False, "subnormals": False,
        "signed_zero": False, "signed": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_ML_DTYPES)
def test_formats_built_from_their_facts_against_ml_dtypes(name, rng):
    fmt, dtype = fs.Format(name=name, **OTHER_ML_DTYPES[name]), getattr(ml_dtypes, name)
    x = rng.integers(0, 2**32, 500_000, dtype=np.uint32).view(np.float32)
    near = rng.uniform(-2, 2, 500_000) * 2.0 ** rng.integers(fmt.emin - 6, fmt.emax + 2, 500_000)
    with np.errstate(over="ignore", under="ignore"):
        x = np.concatenate([x, near.astype(np.float32), np.float32([0, -0.0, np.inf])])
    if not fmt.signed:  # ml_dtypes 0.6 rounds 1.1·2^-127 up to 2^-126: float32's own subnormals
        mistaken = (x > 2.0**-127) & (x < 1.5 * 2.0**-127)
        assert set(fs.round_to(x[mistaken], fmt)) == {np.float32(2.0**-127)}
        x = x[~mistaken]
    assert_same_bits(fs.round_to(x, fmt), astype(astype(x, dtype), np.float32))
    codes = np.arange(256, dtype=np.uint8)
    values = astype(codes.view(dtype), np.float32)
    assert_same_bits(fs.decode(codes, fmt), values)
    numbers = ~np.isnan(values)
    assert np.array_equal(fs.encode(values[numbers], fmt), codes[numbers])
    assert np.isnan(fs.decode(fs.encode(np.nan, fmt), fmt))


OTHER_MODES = [mode for mode in reference.GOES_UP if mode != "ties_to_even"]


class TestModes:
    @pytest.mark.parametrize("mode", OTHER_MODES)
    @pytest.mark.parametrize("fmt", [fs.FP32, *ORACLE_DTYPES], ids=repr)
    def test_against_exact_arithmetic(self, mode, fmt, rng):
        """Random values in and around the range, numbers of the format, midpoints, neighbours."""
        exponents = rng.integers(fmt.emin - fmt.precision - 3, fmt.emax + 3, 300)
        grid = np.ldexp(rng.integers(0, 2 ** (fmt.precision + 1), 300) * 1.0, exponents)
        grid = np.ldexp(grid, -fmt.precision)
        limits = [fmt.max, fmt.smallest_subnormal, fmt.smallest_normal, 2.0 ** (fmt.emax + 1), 0.0]
        x = neighbourhood(np.concatenate([grid, limits]))
        x = np.concatenate([x, rng.standard_normal(300) * fmt.max, [np.inf, np.nan]])
        x *= rng.choice([-1.0, 1.0], x.shape)
        for saturate in (False, True):
            expected = [reference.round_to(v, fmt, mode, saturate) for v in x.tolist()]
            assert_same_bits(fs.round_to(x, fmt, mode, saturate=saturate), np.array(expected))
            if fmt is not fs.FP32:
                with np.errstate(over="ignore", under="ignore"):
                    x32 = x.astype(np.float32)
                expected = [reference.round_to(v, fmt, mode, saturate) for v in x32.tolist()]
                ours = fs.round_to(x32, fmt, mode, saturate=saturate)
                assert_same_bits(ours, np.array(expected, np.float32))

    @pytest.mark.parametrize("fmt", [fs.FP16, fs.E4M3, fs.E2M1], ids=repr)
    def test_directions_enclose_and_odd_is_the_odd_one(self, fmt, rng):
        """Laws that do not need the reference."""
        x = np.clip(rng.standard_normal(5000) * fmt.max / 4, fmt.min, fmt.max)
        down, up = (fs.round_to(x, fmt, f"toward_{way}") for way in ("negative", "positive"))
        zero, odd = fs.round_to(x, fmt, "toward_zero"), fs.round_to(x, fmt, "to_odd")
        assert ((down <= x) & (x <= up)).all()
        assert (fs.round_to((down + up) / 2, fmt)[down == up] == x[down == up]).all()
        assert np.array_equal(zero, np.where(x < 0, up, down))
        assert ((odd == down) | (odd == up)).all()
        spacing = np.ldexp(1.0, np.maximum(np.frexp(zero)[1] - 1, fmt.emin) - fmt.precision + 1)
        exact = down == up
        significand = odd[~exact] / spacing[~exact]
        assert (abs(significand) % 2 == 1).all()
        for nearest in (fs.round_to(x, fmt), fs.round_to(x, fmt, "ties_to_away")):
            assert (abs(nearest - x) <= np.minimum(x - down, up - x)).all()

    @pytest.mark.parametrize(
        ("mode", "positive", "negative"),
        [
            ("ties_to_away", np.inf, -np.inf),
            ("toward_zero", 65504.0, -65504.0),
            ("toward_positive", np.inf, -65504.0),
            ("toward_negative", 65504.0, -np.inf),
            ("to_odd", 65504.0, -65504.0),
            ("stochastic", np.inf, -np.inf),
        ],
    )
    def test_overflow(self, mode, positive, negative):
        chance = {"rng": 0} if mode == "stochastic" else {}
        assert fs.round_to([1e6, -1e6], "fp16", mode, **chance).tolist() == [positive, negative]
        infinite = fs.round_to([np.inf, -np.inf], "fp16", mode, **chance)
        assert infinite.tolist() == [np.inf, -np.inf]

    def test_signs_of_zero(self):
        tiny = np.array([1e-30, -1e-30])
        assert_same_bits(fs.round_to(tiny, "fp16", "toward_zero"), np.array([0.0, -0.0]))
        up, down = fs.round_to(tiny, "fp16", "toward_positive"), 2.0**-24
        assert_same_bits(up, np.array([down, -0.0]))

    @pytest.mark.parametrize("mode", [*reference.GOES_UP])
    @pytest.mark.parametrize("specials", SPECIALS)
    @pytest.mark.parametrize("saturate", [False, True])
    def test_formats_with_all_bits_of_the_carrier(self, mode, specials, saturate):
        fmt = fs.Format(name="long", precision=53, emin=-14, emax=15, **specials)
        x = np.array([2.0**-14 / 3, -(2.0**-14) / 3, fmt.max, 65536.0, -65536.0, 1e9, np.inf])
        x = np.concatenate([neighbourhood(x), [-np.inf, np.nan]])
        expected = np.array([reference.round_to(v, fmt, mode, saturate) for v in x.tolist()])
        assert_same_bits(fs.round_to(x, fmt, mode, saturate=saturate), expected)


class TestStochastic:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(
        "fmt",
        [fs.FP16, fs.BF16, fs.E5M2, fs.FP64.with_range_of(fs.FP16)]
        + [fs.Format(name=f"p{p}", precision=p, emin=-14, emax=15) for p in (20, 21, 22)],
        ids=repr,
    )
    @pytest.mark.parametrize("random_bits", [1, 7, 32])
    def test_against_exact_arithmetic_with_the_same_draws(self, dtype, fmt, random_bits, rng):
        if dtype is np.float32 and fmt.precision > 24:
            fmt = fs.FP32
        exponents = rng.integers(fmt.emin - fmt.precision - 3, fmt.emax + 2, 500)
        x = np.ldexp(rng.uniform(-2, 2, 500), np.clip(exponents, -1000, 1000))
        x[:100] = np.ldexp(
            1 + 2.0**-fmt.precision, np.clip(exponents[:100], fmt.emin, 1000)
        )  # half
        with np.errstate(over="ignore", under="ignore"):
            x = np.concatenate([x, [0.0, np.inf, fmt.max, np.nan]]).astype(dtype)
        ours = fs.round_to(x, fmt, "stochastic", rng=3, random_bits=random_bits)
        draws = np.random.default_rng(3).integers(0, 2**32, x.size, dtype=np.uint32)
        draws = [Fraction(d >> (32 - random_bits), 2**random_bits) for d in draws.tolist()]
        expected = [
            reference.round_to(v, fmt, "stochastic", draw=d)
            for v, d in zip(x.tolist(), draws, strict=True)
        ]
        assert_same_bits(ours, np.array(expected, dtype))

    @pytest.mark.parametrize("x", [1 + 0.3 * 2**-10, -(1 + 0.7 * 2**-10), 0.25 * 2**-24])
    def test_unbiased(self, x):
        """The mean of n draws is within 5 standard errors of x."""
        n = 200_000
        rounded = fs.round_to(np.full(n, x), "fp16", "stochastic", rng=1)
        low, high = (fs.round_to(x, "fp16", f"toward_{way}") for way in ("negative", "positive"))
        assert set(rounded.tolist()) == {low, high}
        p = (x - low) / (high - low)
        assert abs((rounded == high).mean() - p) < 5 * np.sqrt(p * (1 - p) / n)

    def test_every_block_has_its_own_draws(self):
        x = np.full(2 * cpu.BLOCK + 9, 1 + 2.0**-11)
        rounded = fs.round_to(x, "fp16", "stochastic", rng=0)
        draws = np.random.default_rng(0).integers(0, 2**32, x.size, dtype=np.uint32)
        assert np.array_equal(rounded > 1, draws >= 2**31)

    def test_seeds_and_generators(self, rng):
        x = rng.standard_normal(100_000).astype(np.float32)
        first, again, other = (fs.round_to(x, "fp16", "stochastic", rng=s) for s in (0, 0, 1))
        assert_same_bits(first, again)
        assert (first != other).any()
        random = np.random.default_rng(0)
        assert_same_bits(fs.round_to(x, "fp16", "stochastic", rng=random), first)
        assert (fs.round_to(x, "fp16", "stochastic", rng=random) != first).any()

    def test_numbers_of_the_format_stay(self):
        values = astype(ALL_FP16, np.float32)
        assert_same_bits(fs.round_to(values, "fp16", "stochastic", rng=0), values)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"mode": "stochastic"}, ValueError, "rng=None is not allowed for mode='stochastic'"),
            ({"mode": "stochastic", "rng": "0"}, TypeError, "rng must be"),
            ({"mode": "stochastic", "rng": 0, "random_bits": 33}, ValueError, "from 1 to 32"),
            ({"mode": "stochastic", "rng": -1}, ValueError, "rng=-1 is not allowed"),
            ({"saturate": "no"}, TypeError, "saturate must be True or False, got 'no'"),
            ({"subnormals": 1}, TypeError, "subnormals must be True or False, got 1"),
            ({"rng": 0}, ValueError, "for mode='stochastic' only, not for 'ties_to_even'"),
            ({"random_bits": 3}, ValueError, "for mode='stochastic' only"),
        ],
    )
    def test_bad_arguments(self, arguments, error, message):
        with pytest.raises(error, match=message):
            fs.round_to(1.5, "fp16", **arguments)


class TestFlushing:
    @pytest.mark.parametrize("fmt", [fs.FP16, fs.BF16, fs.FP32], ids=repr)
    @pytest.mark.parametrize("mode", [*reference.GOES_UP])
    def test_every_mode(self, fmt, mode, rng):
        x = rng.uniform(-2, 2, 2000) * fmt.smallest_normal
        rounded = fs.round_to(x, fmt, mode)
        expected = np.where(abs(rounded) < fmt.smallest_normal, np.copysign(0, x), rounded)
        assert_same_bits(fs.round_to(x, fmt, mode, subnormals=False), expected)

    def test_subnormal_results_become_signed_zeros(self):
        x = np.array([2.0**-15, -(2.0**-15), 2.0**-14, -(2.0**-14), 2.0**-14 * (1 - 2.0**-30)])
        expected = np.array([0.0, -0.0, 2.0**-14, -(2.0**-14), 2.0**-14])
        assert_same_bits(fs.round_to(x, "fp16", subnormals=False), expected)


class TestInput:
    def test_blocks_of_any_length(self, rng):
        """Kernels work in blocks: lengths around their borders, with odd values in one block."""
        for size in (0, 1, cpu.BLOCK - 1, cpu.BLOCK, cpu.BLOCK + 1, 2 * cpu.BLOCK + 3):
            x = rng.standard_normal(size).astype(np.float32)
            if size:
                x[-1] = np.nan
                x[0] = 1e6
            for fmt in (fs.FP16, fs.BF16):
                expected = astype(astype(x, ORACLE_DTYPES[fmt]), np.float32)
                assert_same_bits(fs.round_to(x, fmt), expected)

    def test_layouts(self, rng):
        base = rng.standard_normal((6, 8)).astype(np.float32)
        expected = astype(astype(base, np.float16), np.float32)
        for view, of in [
            (base[::2, ::-3], expected[::2, ::-3]),
            (base.T, expected.T),
            (np.asfortranarray(base), expected),
            (base.astype(">f4"), expected),
            (np.broadcast_to(base[0], (3, 8)), np.broadcast_to(expected[0], (3, 8))),
        ]:
            result = fs.round_to(view, "fp16")
            assert_same_bits(result, np.ascontiguousarray(of))
            assert result.flags.c_contiguous
            assert result.flags.writeable

    def test_never_a_view_and_never_changes_the_input(self, rng):
        x = rng.standard_normal(10).astype(np.float32)
        before = x.copy()
        for fmt in ("fp32", "fp16", "bf16", "fp64"):
            assert not np.shares_memory(fs.round_to(x, fmt), x)
        assert_same_bits(x, before)
        x.flags.writeable = False
        fs.round_to(x, "fp16")

    def test_memory_maps_and_subclasses_come_back_as_plain_arrays(self, rng, tmp_path):
        class Tagged(np.ndarray):
            pass

        x = rng.standard_normal(1000).astype(np.float32)
        mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
        mapped[:] = x
        read_only = np.memmap(tmp_path / "x", np.float32, "r", shape=x.shape)
        for array in (mapped, read_only, x.view(Tagged)):
            for fmt in ("fp16", "bf16", "fp32"):
                result = fs.round_to(array, fmt)
                assert type(result) is np.ndarray
                assert_same_bits(result, fs.round_to(x, fmt))

    @pytest.mark.parametrize("mode", [*reference.GOES_UP, "stochastic"])
    @pytest.mark.parametrize(
        "fmt", [fs.FP16, fs.BF16, fs.E4M3, fs.E2M1, fs.FP32, fs.E8M0], ids=repr
    )
    def test_every_kind_of_nan_stays_nan(self, mode, fmt):
        """Quiet and signalling, of either sign, with payloads that a carry would destroy."""
        payloads = [1, 0x1FFF, 0x3FFFFF, 0x400000, 0x7FFFFF, 0x7FE000, 0x7F8000]
        words = np.array([s | 0x7F800000 | p for p in payloads for s in (0, 1 << 31)], np.uint32)
        doubles = np.array([0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x7FF8 << 48], np.uint64)
        arguments = {"rng": 0} if mode == "stochastic" else {}
        for x, quiet in ((words.view(np.float32), 1 << 22), (doubles.view(np.float64), 1 << 51)):
            for saturate in (False, True):
                result = fs.round_to(x, fmt, mode, saturate=saturate, **arguments)
                assert np.isnan(result).all()
                if fmt is not fs.FP32:  # which changes nothing in a float32 array
                    assert (result.view(f"u{x.itemsize}") & quiet).all()

    @pytest.mark.parametrize("dtype", [">f2", "<f2", ">f4", "<f4", ">f8", "<f8"])
    def test_signalling_nans_are_counted(self, dtype):
        dtype = np.dtype(dtype)
        top = {2: 0x7C00, 4: 0x7F800000, 8: 0x7FF0000000000000}[dtype.itemsize]
        quiet = {2: 1 << 9, 4: 1 << 22, 8: 1 << 51}[dtype.itemsize]
        more = [top | quiet, top | quiet | 1, top | quiet | 2, top, 1]
        codes = np.array([top | 1, top | quiet >> 1, *more])
        x = codes.astype(f"{dtype.byteorder}u{dtype.itemsize}").view(dtype)
        with fs.status_flags() as status:
            fs.round_to(x, "e5m2", saturate=True)
        assert status.invalid == 2
        assert status.divide_by_zero == 0

    def test_empty_arrays(self):
        for shape in ((0,), (3, 0)):
            for dtype in (np.float32, np.float64):
                result = fs.round_to(np.zeros(shape, dtype), "fp16", "stochastic", rng=0)
                assert (result.shape, result.dtype) == (shape, dtype)

    def test_scalars_lists_and_small_floats(self):
        assert isinstance(fs.round_to(0.1, "fp16"), np.float64)
        assert fs.round_to(np.float32(0.1), "fp16").dtype == np.float32
        assert fs.round_to(np.array(0.1), "fp16").shape == ()
        assert fs.round_to([[0.1, 0.2]], "fp16").shape == (1, 2)
        assert fs.round_to(np.float16([0.1]), "bf16").dtype == np.float32
        small = np.array([1.0, 1.25], ml_dtypes.bfloat16)
        assert_same_bits(fs.round_to(small, "e5m2"), np.float32([1, 1.25]))

    @pytest.mark.parametrize(
        "bad",
        [
            np.arange(3),
            np.array([True]),
            np.array([1j]),
            np.array([None]),
            "0.1",
            None,
            [1, 2],
            [[1.0], [1.0, 2.0]],
            np.ma.masked_array([1.0], [True]),
            np.longdouble(1),
        ],
        ids=lambda bad: type(bad).__name__,
    )
    def test_other_types_are_refused_by_name(self, bad):
        with pytest.raises(TypeError, match="x "):
            fs.round_to(bad, "fp16")

    def test_a_python_integer_is_told_what_to_do(self):
        with pytest.raises(TypeError, match=r"x has dtype int64; allowed.*write 1\.0"):
            fs.round_to(1, "fp16")

    def test_integers_are_told_what_to_do(self):
        with pytest.raises(TypeError, match=r"x has dtype int64; allowed.*x\.astype"):
            fs.round_to(np.arange(3), "fp16")

    def test_unknown_mode_lists_what_is_allowed(self):
        with pytest.raises(ValueError, match=r"mode='nearest'.*ties_to_even"):
            fs.round_to(1.0, "fp16", "nearest")

    def test_no_warning_and_no_change_of_error_state(self):
        with np.errstate(all="raise"), warnings.catch_warnings():
            warnings.simplefilter("error")
            state = np.geterr()
            for fmt in FORMATS:
                fs.round_to(np.float32([1e38, -1e38, 1e-44, np.inf, np.nan]), fmt)
                fs.round_to(np.float64([1e308, 5e-324, np.nan]), fmt)
            assert np.geterr() == state


def test_what_is_announced_says_what_was_rounded_to_what_and_where():
    heard = []
    x = np.float32([1 + 2**-11, 3.0])
    with events.observe(heard.append), events.scope("here"):
        result = fs.round_to(x, "fp16")
    rounded = [event for event in heard if isinstance(event, events.Rounded)]
    assert len(rounded) == 1
    assert_same_bits(rounded[0].before, x)
    assert_same_bits(rounded[0].after, result)
    assert rounded[0].fmt == fs.FP16
    assert rounded[0].origin == events.Origin("here", "round_to", "value")
    (raised,) = [event for event in heard if isinstance(event, events.Exceptions)]
    assert raised.origin == rounded[0].origin


def test_gpu_arrays_are_refused_by_name_where_they_cannot_be_used():
    on_gpu = type("ndarray", (), {"__module__": "cupy._core.core"})()
    with pytest.raises(TypeError, match="x is a CuPy array; allowed are NumPy arrays"):
        fs.encode(on_gpu, "fp16")


def test_the_argument_of_random_bits_is_named():
    with pytest.raises(ValueError, match="random_bits=33"):
        fs.round_to(1.5, "fp16", "stochastic", rng=0, random_bits=33)


@pytest.mark.parametrize("executor", EXECUTORS, ids=lambda module: module.__name__)
def test_an_executor_rounds_to_nearest_even_with_subnormals_unless_told_otherwise(executor):
    x = np.float32([2049.0, 2051.0, 2.0**-24, 1e6, -np.inf])
    out = np.empty_like(x)
    executor.round_array(x, out, fs.FP16)
    assert_same_bits(out, np.float32([2048.0, 2052.0, 2.0**-24, np.inf, -np.inf]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (1, "x has dtype int64; allowed are float16, float32 and float64; write 1.0"),
        (np.arange(3), "allowed are float16, float32 and float64; say x.astype('float32')"),
        (np.array(["X"]), "x has dtype <U1; allowed are float16, float32 and float64"),
        (1j, "x has dtype complex128; allowed are float16, float32 and float64"),
    ],
)
def test_the_whole_message_for_what_is_no_float(x, message):
    with pytest.raises(TypeError) as raised:
        fs.round_to(x, "fp16")
    assert str(raised.value).endswith(message)


def test_the_whole_message_for_a_missing_seed():
    with pytest.raises(ValueError, match=r"^rng=None is not allowed for mode='stochastic'; give"):
        fs.round_to(1.5, "fp16", "stochastic")


def test_formats_that_reach_below_float32s_normal_numbers_heed_the_switches():
    low = fs.Format(name="low", precision=4, emin=-130, emax=10)
    x = np.float32([2.0**-132, 1e6, -1e6])
    assert_same_bits(fs.round_to(x, low), np.float32([2.0**-132, np.inf, -np.inf]))
    flushed = fs.round_to(x, low, saturate=True, subnormals=False)
    assert_same_bits(flushed, np.float32([0, low.max, -low.max]))


@pytest.mark.parametrize(
    ("mode", "x", "overflows"),
    [
        ("ties_to_even", 65519.0, 0), ("ties_to_even", 65520.0, 1), ("toward_positive", 65505.0, 1),
        ("toward_positive", -65535.0, 0), ("toward_negative", -65505.0, 1),
        ("toward_zero", 65535.0, 0), ("toward_zero", 65536.0, 1),
    ],
)  # fmt: skip
def test_overflow_is_counted_by_the_mode(mode, x, overflows):
    with fs.status_flags() as flags:
        fs.round_to(x, "fp16", mode)
    assert flags.overflow == overflows
