"""Shared by all tests: oracles and ready-made data."""

import importlib.util
import os
import warnings

if "PYTEST_XDIST_WORKER" in os.environ:  # a process per core: threads of BLAS would fight for them
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import ml_dtypes
import numpy as np
import pytest
from hypothesis import settings

import fp16sim as fs
from fp16sim.kernels import cpu

# The first call of a compiled kernel takes longer than Hypothesis allows an example.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

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


#: the executors that can run here; those that are not installed are tested where they are
EXECUTORS = [cpu]
if importlib.util.find_spec("numba"):
    from fp16sim.kernels import compiled

    EXECUTORS.append(compiled)


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


@pytest.fixture(scope="session")
def digits():
    return fs.data.digits()


def has_gpu():
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # not installed, no driver, no device: all the same here
        return False


#: whether these tests run under tests/software_gpu/run.py
SOFTWARE_GPU = "SOFTWARE_GPU" in os.environ


def why_not(item):
    """Why a test in tests/gpu cannot run here, or nothing."""
    if item.get_closest_marker("software_gpu") and not SOFTWARE_GPU:
        return "of the software GPU: tests/software_gpu/run.py"
    if SOFTWARE_GPU:  # if there is none after all, let them fail
        hardware = item.get_closest_marker("hardware")
        return f"a software GPU: {hardware.args[0]}" if hardware else ""
    # Those that only compile need NVIDIA's compiler alone, and look for it themselves.
    if item.path.stem.endswith("_compile") or has_gpu():
        return ""
    return "no NVIDIA GPU with CuPy"


def pytest_collection_modifyitems(items):
    """Tests in tests/gpu need an NVIDIA GPU and CuPy; without, they and only they are skipped."""
    on_gpu = [item for item in items if "gpu" in item.path.parts]
    for item in on_gpu:
        item.add_marker(pytest.mark.gpu)
        if reason := why_not(item):
            item.add_marker(pytest.mark.skip(reason=reason))
