"""The CuPy kernel against the NumPy one, bit for bit."""

import numpy as np
import pytest

import fp16sim as fs
from fp16sim.rounding import MODES

FORMATS = [fs.FP16, fs.BF16, fs.E4M3, fs.E5M2, fs.E2M1, fs.TF32]


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def same_bits(ours, expected):
    words = f"u{ours.dtype.itemsize}"
    return (ours.view(words) == expected.view(words)) | (np.isnan(ours) & np.isnan(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fmt", FORMATS, ids=repr)
@pytest.mark.parametrize("mode", MODES)
def test_random_patterns(cupy, dtype, fmt, mode):
    size = np.dtype(dtype).itemsize
    patterns = np.random.default_rng(0).integers(0, 2 ** (8 * size), 2**20, f"u{size}")
    x = patterns.view(dtype)
    arguments = {"rng": 7} if mode == "stochastic" else {}
    for switches in ({}, {"saturate": True}, {"subnormals": False}):
        on_gpu = fs.round_to(cupy.asarray(x), fmt, mode, **switches, **arguments)
        assert isinstance(on_gpu, cupy.ndarray)
        expected = fs.round_to(x, fmt, mode, **switches, **arguments)
        assert same_bits(on_gpu.get(), expected).all()


@pytest.mark.exhaustive
@pytest.mark.parametrize("fmt", FORMATS[:4], ids=repr)
def test_every_float32(cupy, fmt):
    for start in range(0, 2**32, 2**26):
        x = np.arange(start, start + 2**26, dtype=np.uint64).astype(np.uint32).view(np.float32)
        ours = fs.round_to(cupy.asarray(x), fmt).get()
        assert same_bits(ours, fs.round_to(x, fmt)).all()


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "gelu", "sigmoid", "rsqrt", "sqrt"])
@pytest.mark.parametrize("fmt", FORMATS[:4], ids=repr)
def test_functions_of_every_number(cupy, name, fmt):
    x = np.array(list(fmt), np.float32)
    function = getattr(fs.arith, name)
    assert same_bits(function(cupy.asarray(x), fmt).get(), function(x, fmt)).all()


def test_what_stays_on_the_host_says_so(cupy):
    x = cupy.ones(3)
    for call in (lambda: fs.arith.add(x, x, "fp16"), lambda: fs.encode(x, "fp16")):
        with pytest.raises(TypeError, match=r"x is a CuPy array.*x\.get\(\)"):
            call()
