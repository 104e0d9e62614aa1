"""Shared by all tests: oracles and ready-made data."""

import warnings

import ml_dtypes
import numpy as np
import pytest

import fp16sim as fs

#: formats that another package implements, and its dtype
ORACLE_DTYPES = {
    fs.FP16: np.float16,
    fs.BF16: ml_dtypes.bfloat16,
    fs.E4M3: ml_dtypes.float8_e4m3fn,
    fs.E5M2: ml_dtypes.float8_e5m2,
    fs.E3M2: ml_dtypes.float6_e3m2fn,
    fs.E2M3: ml_dtypes.float6_e2m3fn,
    fs.E2M1: ml_dtypes.float4_e2m1fn,
}


def astype(x, dtype):
    """NumPy's and ml_dtypes' casts, without their warnings."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return x.astype(dtype)


def assert_same_bits(actual, expected):
    """Equal bit for bit, except that any NaN equals any NaN."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    words = {4: np.uint32, 8: np.uint64}[actual.dtype.itemsize]
    different = (actual.view(words) != expected.view(words)) & ~(
        np.isnan(actual) & np.isnan(expected)
    )
    if different.any():
        where = tuple(np.argwhere(different)[0])
        pytest.fail(
            f"{int(different.sum())} of {actual.size} differ, the first at {where}: "
            f"{actual[where]!r}, expected {expected[where]!r}"
        )


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


@pytest.fixture(scope="session")
def digits():
    return fs.data.digits()
