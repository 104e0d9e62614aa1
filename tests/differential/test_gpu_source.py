"""The text of CUDA kernels, compiled as C++ for the CPU: the same bits as NumPy."""

import ctypes
import subprocess

import numpy as np
import pytest
from conftest import assert_same_bits

import fp16sim as fs
from fp16sim import accumulate
from fp16sim.kernels.layout import FLOAT32, FLOAT64
from fp16sim.kernels.sums import gpu as sums
from fp16sim.kernels.sums.cpu import carrier_of_sums, factors
from fp16sim.kernels.units import cpu as units_cpu
from fp16sim.kernels.units import gpu as units

HOST = """
#include <cstring>
#define __device__ static
#define __global__
struct Index { long long x; };
static Index blockIdx, blockDim = {1}, threadIdx;
template <class To, class From> static To cast(From x) {
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
#define __float_as_uint(x) cast<unsigned, float>(x)
#define __uint_as_float(x) cast<float, unsigned>(x)
#define __double_as_longlong(x) cast<long long, double>(x)
#define __longlong_as_double(x) cast<double, unsigned long long>(x)
#define __fadd_rn(x, y) ((x) + (y))
#define __fsub_rn(x, y) ((x) - (y))
#define __fmul_rn(x, y) ((x) * (y))
#define __dadd_rn(x, y) ((x) + (y))
#define __dsub_rn(x, y) ((x) - (y))
#define __dmul_rn(x, y) ((x) * (y))
"""
FLAGS = ["-O2", "-ffp-contract=off", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles C++ and returns what runs its kernel ``add_up`` for every thread."""
    folder = tmp_path_factory.mktemp("cuda")

    def compile_and_load(code):
        name = f"kernel{len(list(folder.iterdir()))}"
        (folder / f"{name}.cpp").write_text(
            HOST + code + 'extern "C" void at(long long i) { threadIdx.x = i; }\n'
        )
        library = folder / f"{name}.so"
        subprocess.run(
            ["g++", *FLAGS, "-shared", "-fPIC", "-o", library, folder / f"{name}.cpp"], check=True
        )
        loaded = ctypes.CDLL(str(library))

        def run(out, *arguments):
            for i in range(out.size):
                loaded.at(ctypes.c_longlong(i))
                loaded.add_up(*arguments)

        return run

    return compile_and_load


def pointer(x):
    return x.ctypes.data_as(ctypes.c_void_p)


def long(x):
    return ctypes.c_longlong(int(x))


def matrices(rng, fmt, m, k, n, wide):
    def numbers(*shape):
        x = rng.standard_normal(shape)
        if wide:
            x *= 2.0 ** rng.uniform(fmt.emin - fmt.precision, fmt.emax, shape)
        x[rng.random(shape) < 0.05] = 0
        return fs.round_to(x, fmt, saturate=True).astype(np.float32)

    return numbers(m, k), numbers(k, n)


@pytest.mark.parametrize("method", ["sequential", "fma", "pairwise", "kahan"])
@pytest.mark.parametrize("fmt", [fs.FP16, fs.BF16, fs.E4M3, fs.E2M1, fs.FP32, fs.FP64])
def test_sums(build, method, fmt):
    rng = np.random.default_rng(0)
    word = {FLOAT32: ctypes.c_uint32, FLOAT64: ctypes.c_uint64}
    for wide, special, block, saturate in (
        (False, False, None, False),
        (True, False, None, False),
        (True, True, None, False),
        (False, False, 5, False),
        (True, False, None, True),
    ):
        a, b = matrices(rng, fs.FP16, 6, 33, 7, wide)
        if special:
            a[0, 3], a[1, 2], b[4, 1] = np.inf, np.nan, -np.inf
        carrier = carrier_of_sums(fmt, method, saturate, factors(a, b))
        if carrier is None or (block and fmt == fs.FP64):
            continue  # a matter of arith, which is for the host
        adds = fs.Accumulator(method, fmt, block)
        expected = accumulate.matmul(a, b, fmt="fp64", accumulator=adds, saturate=saturate)
        result = "double" if carrier == FLOAT64 else "float"
        code = sums.definitions(carrier, fmt != carrier.fmt, "float", "float", result)
        code += sums.SUM + sums.KERNEL.replace("METHOD", "fma_" if method == "fma" else method)
        out = np.empty((6, 7), carrier.floats)
        constants = sums.constants(fmt, saturate, carrier)
        build(code)(
            out, pointer(a), pointer(b), pointer(out), long(6), long(7), long(33), long(block or 0),
            ctypes.c_bool(False), *(word[carrier](int(c)) for c in constants),
        )  # fmt: skip
        with np.errstate(all="ignore"):
            final = fs.round_to(out.astype(np.float64), "fp64", saturate=saturate)
        assert_same_bits(final, expected)


@pytest.mark.parametrize("output", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["V100", "A100", "L40S", "H100", "B200"])
def test_matrix_units(build, name, output):
    run = build(units.DEFINITIONS + units.CHAIN + units.KERNEL)
    rng = np.random.default_rng(1)
    unit = fs.tensorcore.ARCHITECTURES[name].with_output(output)
    for fmt, step in unit.steps:
        for wide, special, vectors in (
            (False, False, False),
            (True, False, False),
            (True, True, False),
            (True, False, True),
        ):
            a, b = matrices(rng, fmt, 20, 75, 20, wide)
            if special:
                a[0, 3], a[1, 2], b[4, 1], b[70, 1] = np.inf, np.nan, -np.inf, np.inf
            b = np.ascontiguousarray(b.T) if vectors else b
            shape = (20,) if vectors else (20, 20)
            start = fs.round_to(rng.standard_normal(shape), output).astype(np.float32)
            start.reshape(-1)[:4] = 0, -0.0, 2.0**-24, -(2.0**-20)
            if output == "fp32":
                start.reshape(-1)[4:8] = 2.0**-149, -(2.0**-127), 3e38, -np.inf
            expected, out = start.copy(), start.copy()
            units_cpu.add_up(a, b, expected, step, (fmt, fmt), unit.output)
            *integers, half = units.numbers(step, (fmt, fmt), unit.output)
            run(
                out, pointer(a), pointer(b), pointer(out), long(20), long(1 if vectors else 20),
                long(75), ctypes.c_bool(vectors), *(ctypes.c_int(i) for i in integers),
                ctypes.c_bool(half),
            )  # fmt: skip
            assert_same_bits(out, expected)
