"""Elementary functions against MPFR: every number of every format of up to 16 bits, every mode.

The oracle is the true result rounded to odd in 53 bits: MPFR's own functions give it by truncating
and telling whether that was exact; functions put together from several are enclosed in intervals
of 300 bits. Rounding that to the format is ``round_to``, which is proved elsewhere.
"""

import gmpy2
import numpy as np
import pytest
from conftest import ORACLE_DTYPES, assert_same_bits
from gmpy2 import mpfr

import fp16sim as fs
from fp16sim.kernels.reference import GOES_UP

EMIN, EMAX = gmpy2.get_emin_min(), gmpy2.get_emax_max()
TRUNCATING = gmpy2.context(precision=53, round=gmpy2.RoundToZero, emin=EMIN, emax=EMAX)
DOWN = gmpy2.context(precision=300, round=gmpy2.RoundDown, emin=EMIN, emax=EMAX)
UP = gmpy2.context(precision=300, round=gmpy2.RoundUp, emin=EMIN, emax=EMAX)

NATIVE = {
    "exp": gmpy2.exp,
    "exp2": gmpy2.exp2,
    "expm1": gmpy2.expm1,
    "log": gmpy2.log,
    "log2": gmpy2.log2,
    "log1p": gmpy2.log1p,
    "sin": gmpy2.sin,
    "cos": gmpy2.cos,
    "tanh": gmpy2.tanh,
    "erf": gmpy2.erf,
    "sqrt": gmpy2.sqrt,
    # MPFR says +infinity for -0, IEEE 754-2019 (9.2.1) -infinity
    "rsqrt": lambda x: gmpy2.rec_sqrt(x) if x else 1 / x,
    "reciprocal": lambda x: 1 / x,
}


def odd(number, inexact):
    """A truncated 53-bit number as float64 rounded to odd; what float64 lacks stays on its side."""
    if number == 0 or not gmpy2.is_finite(number):
        return float(np.copysign(2.0**-1050, float(number))) if inexact else float(number)
    exponent = gmpy2.get_exp(number)
    if exponent > 1020 or exponent < -1000:
        return gmpy2.sign(number) * (2.0**1020 if exponent > 0 else 2.0**-1050)
    value = np.float64(float(number))
    if inexact and value.view(np.int64) & 1 == 0:
        value = (value.view(np.int64) + 1).view(np.float64)
    return float(value)


def native(function, x):
    with TRUNCATING:
        result = function(mpfr(x))
        return odd(result, result.rc != 0)


class Interval:
    """Two numbers that enclose a result, computed with every rounding outwards."""

    def __init__(self, low, high):
        self.low, self.high = low, high

    def apply(self, function, rising=True):
        with DOWN:
            low = function(self.low if rising else self.high)
        with UP:
            high = function(self.high if rising else self.low)
        return Interval(low, high)

    def with_(self, other, operation):
        pairs = [(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        with DOWN:
            low = min(operation(a, b) for a, b in pairs)
        with UP:
            high = max(operation(a, b) for a, b in pairs)
        return Interval(low, high)

    def __add__(self, other):
        return self.with_(other, lambda a, b: a + b)

    def __mul__(self, other):
        return self.with_(other, lambda a, b: a * b)

    def __neg__(self):
        return Interval(-self.high, -self.low)

    def odd(self):
        """The result rounded to odd; it is irrational, so strictly inside."""
        outer = self.high if self.low >= 0 else self.low
        assert self.low * self.high >= 0, "the sign is not known"
        if abs(outer) < mpfr(2) ** -1000:  # the inner end may be zero
            return odd(outer, inexact=True)
        with gmpy2.context(TRUNCATING, round=gmpy2.RoundDown):
            low = mpfr(self.low)
        with gmpy2.context(TRUNCATING, round=gmpy2.RoundUp):
            high = mpfr(self.high)
        with TRUNCATING:
            assert high <= gmpy2.next_above(low), "the interval is too wide to tell"
            inner = low if self.low >= 0 else high  # the one nearer to zero
        return odd(inner, inexact=True)


def point(x):
    return Interval(mpfr(x, 300), mpfr(x, 300))


ONE, HALF = point(1), point(0.5)


def logistic(t):
    """1 / (1 + e^-t)."""
    return (ONE + (-t).apply(gmpy2.exp)).apply(lambda u: 1 / u, rising=False)


def softplus(x):
    return (point(x).apply(gmpy2.exp)).apply(gmpy2.log1p) if x < 0 else (
        point(x) + (-point(x)).apply(gmpy2.exp).apply(gmpy2.log1p)
    )  # fmt: skip


def gelu(x):
    root = point(2).apply(gmpy2.sqrt).apply(lambda u: 1 / u, rising=False)
    gate = (-(point(x) * root)).apply(gmpy2.erfc, rising=False)
    return point(x) * gate * HALF


def gelu_tanh(x):
    pi = Interval(DOWN.const_pi(), UP.const_pi())
    factor = (point(2) * pi.apply(lambda u: 1 / u, rising=False)).apply(gmpy2.sqrt)
    cubic = Interval(DOWN.div(mpfr(44715), mpfr(10**6)), UP.div(mpfr(44715), mpfr(10**6)))
    inner = point(x) + cubic * point(x) * point(x) * point(x)
    return point(x) * logistic(point(2) * factor * inner)


COMPOSED = {
    "sigmoid": lambda x: logistic(point(x)),
    "softplus": softplus,
    "silu": lambda x: point(x) * logistic(point(x)),
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}
#: what they are at zero, and at the infinities
AT_ZERO = {"sigmoid": 0.5, "softplus": None, "silu": 0.0, "gelu": 0.0, "gelu_tanh": 0.0}
LIMITS = {"sigmoid": (0, 1), "softplus": (0, np.inf)} | dict.fromkeys(
    ("silu", "gelu", "gelu_tanh"), (-0.0, np.inf)
)


def oracle(name, x):
    """The true result rounded to odd in float64."""
    if name in NATIVE:
        return native(NATIVE[name], x)
    if np.isinf(x):
        return LIMITS[name][int(x > 0)]
    if x == 0 and AT_ZERO[name] is not None:
        return AT_ZERO[name] or x
    return COMPOSED[name](x).odd()


def ours(name, x, fmt, mode):
    if name == "gelu_tanh":
        return fs.arith.gelu(x, fmt, mode, approximate="tanh")
    return getattr(fs.arith, name)(x, fmt, mode)


@pytest.mark.parametrize("fmt", ORACLE_DTYPES, ids=repr)
@pytest.mark.parametrize("name", [*NATIVE, *COMPOSED])
def test_every_number_of_the_format_in_every_mode(name, fmt):
    numbers = np.array(list(fmt))
    truth = np.array([oracle(name, x) for x in numbers.tolist()])
    for mode in GOES_UP:
        expected = fs.round_to(truth, fmt, mode)
        with_table = ours(name, numbers.astype(np.float32), fmt, mode)
        assert_same_bits(with_table.astype(np.float64), expected)
    with fs.status_flags() as status:  # counting takes the other way, without a table
        assert_same_bits(ours(name, numbers, fmt, "ties_to_even"), fs.round_to(truth, fmt))
    inexact = np.isfinite(truth) & (truth != fs.round_to(truth, fmt))
    assert status.inexact == 2 * np.count_nonzero(inexact)  # ours, and round_to's


@pytest.mark.parametrize("name", ["tanh", "exp", "sigmoid", "gelu", "sqrt", "reciprocal"])
def test_operands_with_more_bits_than_the_format(name):
    """Faithful is promised; in fp16 and fp32 from float32 and float64, most often correct."""
    rng = np.random.default_rng(0)
    x = abs(rng.standard_normal(2000)) * 2.0 ** rng.integers(-10, 4, 2000)
    truth = np.array([oracle(name, v) for v in x.tolist()])
    for fmt in (fs.FP16, fs.FP32, fs.TF32):
        assert_same_bits(ours(name, x, fmt, "ties_to_even"), fs.round_to(truth, fmt))
    error = abs(ours(name, x, fs.FP64, "ties_to_even") - truth) / np.spacing(truth)
    assert error.max() <= (1 if name in ("sqrt", "reciprocal") else 8)


def test_the_oracle_can_fail():
    """A result of the wrong side of a midpoint is another one after rounding."""
    assert native(gmpy2.exp, 2.0**-40) > 1
    assert native(gmpy2.exp, -(2.0**-40)) < 1
    assert softplus(1e30).odd() > 1e30
    assert native(gmpy2.exp2, 3.0) == 8.0
