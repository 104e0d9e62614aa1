"""The software GPU itself: that it computes as a GPU, and refuses what a GPU refuses."""

import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.software_gpu


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


def kernel(code, name="test", **options):
    import cupy

    return cupy.RawKernel('extern "C" __global__ ' + code, name, **options)


def words_of(function, x, dtype):
    """A kernel's ``y[i] = function of x[i]``, of each word."""
    import cupy

    out = cupy.empty(x.shape, dtype)
    kernel(function)((x.size // 256,), (256,), (cupy.asarray(x), out))
    return out.get()


HALVES = np.arange(2**16, dtype=np.uint32).astype(np.uint16)


def test_fp16_to_fp32(cupy):
    code = (
        "void test(const unsigned short* x, float* y) { const int i = blockIdx.x * 256 + "
        'threadIdx.x; asm("cvt.f32.f16 %0, %1;" : "=f"(y[i]) : "h"(x[i])); }'
    )
    np.testing.assert_array_equal(
        words_of(code, HALVES, np.float32), HALVES.view(np.float16).astype(np.float32)
    )


def between(dtype):
    """All numbers of two bytes as float32, those half-way between them, and their neighbours."""
    every = HALVES.view(dtype).astype(np.float32)
    x = np.sort(every[np.isfinite(every)])
    middle = ((x[1:].astype(np.float64) + x[:-1]) / 2).astype(np.float32)
    both = np.concatenate([x, middle])
    up, down = (np.nextafter(both, np.float32(limit)) for limit in (np.inf, -np.inf))
    found = np.concatenate([both, up, down, [np.inf, -np.inf, np.nan]]).astype(np.float32)
    return np.resize(found, -(-found.size // 256) * 256)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_fp32_to_two_bytes(cupy, name):
    import ml_dtypes

    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}[name]
    code = (
        "void test(const float* x, unsigned short* y) { const int i = blockIdx.x * 256 + "
        f'threadIdx.x; asm("cvt.rn.{name}.f32 %0, %1;" : "=h"(y[i]) : "f"(x[i])); }}'
    )
    with np.errstate(over="ignore"):
        x = between(dtype)
        expected = x.astype(dtype).astype(np.float32)
    found = words_of(code, x, np.uint16).view(dtype).astype(np.float32)
    np.testing.assert_array_equal(found.view(np.uint32)[x == x], expected.view(np.uint32)[x == x])
    assert np.isnan(found[x != x]).all()


def test_flush_to_zero(cupy):
    tiny = np.float32(2.0**-126)
    x = np.resize(np.array([tiny, -tiny, tiny / 2, -tiny / 2, 1], np.float32), 256)
    for ftz in ("", ".ftz"):
        code = (
            "void test(const float* x, float* y) { const int i = threadIdx.x; "
            f'asm("mul.rn{ftz}.f32 %0, %1, 0f3F000000;" : "=f"(y[i]) : "f"(x[i])); }}'
        )
        expected = x / 2
        if ftz:
            expected[abs(expected) < tiny] *= 0
        found = words_of(code, x, np.float32)
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_integers_as_c_divides_and_shifts_them(cupy):
    rng = np.random.default_rng(0)
    x = rng.integers(-100, 100, 256).astype(np.int32)
    y = rng.choice([-7, -2, -1, 1, 3, 64], 256).astype(np.int32)
    code = """void test(const int* x, const int* y, int* out) {
        const int i = threadIdx.x;
        out[i] = x[i] / y[i]; out[256 + i] = x[i] % y[i]; out[512 + i] = x[i] >> (i % 32);
        out[768 + i] = (long long)x[i] * y[i] >> 4; out[1024 + i] = (unsigned)x[i] >> (i % 32);
    }"""
    out = cupy.empty((5, 256), np.int32)
    kernel(code)((1,), (256,), (cupy.asarray(x), cupy.asarray(y), out))
    i = np.arange(256) % 32
    expected = [np.trunc(x / y), np.fmod(x, y), x >> i, x.astype(np.int64) * y >> 4]
    expected.append((x.view(np.uint32) >> i.astype(np.uint32)).view(np.int32))
    np.testing.assert_array_equal(out.get(), np.stack(expected).astype(np.int32))


def test_directions_of_rounding(cupy):
    code = """void test(const float* x, float* y) {
        const int i = threadIdx.x;
        y[i] = __fadd_rd(x[i], 1e-10f); y[256 + i] = __fadd_ru(x[i], 1e-10f);
        y[512 + i] = __fadd_rz(x[i], 1e-10f);
    }"""
    x = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    out = cupy.empty((3, 256), np.float32)
    kernel(code)((1,), (256,), (cupy.asarray(x), out))
    up = np.nextafter(x, np.float32(np.inf))
    toward_zero = np.where(x < 0, up, x)
    np.testing.assert_array_equal(out.get(), np.stack([x, up, toward_zero]))


def test_threads_wait_for_each_other(cupy):
    code = """void test(const float* x, float* y) {
        __shared__ float parts[8];
        float sum = x[blockIdx.x * 256 + threadIdx.x];
        for (int mask = 16; mask; mask /= 2) sum += __shfl_xor_sync(0xFFFFFFFF, sum, mask);
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
        __syncthreads();
        if (threadIdx.x == 0) for (int i = 1; i < 8; ++i) sum += parts[i];
        if (threadIdx.x == 0) y[blockIdx.x] = sum;
    }"""
    x = np.random.default_rng(0).integers(-99, 99, (5, 256)).astype(np.float32)
    out = cupy.empty(5, np.float32)
    kernel(code)((5,), (256,), (cupy.asarray(x), out))
    np.testing.assert_array_equal(out.get(), x.sum(axis=1))


def test_a_graph_is_run_when_it_is_launched(cupy):
    x = cupy.zeros(3, np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x += 1
        stream.begin_capture()
        x += 1
        graph = stream.end_capture()
        assert x.get(stream=stream).tolist() == [1, 1, 1]
        graph.launch(stream)
        graph.launch(stream)
    assert x.get().tolist() == [3, 3, 3]


@pytest.mark.parametrize("what", ["wait", "copy", "memory", "legacy"])
def test_what_a_recording_forbids(cupy, what):
    x, stream = cupy.zeros(3, np.float32), cupy.cuda.Stream()
    runtime = cupy.cuda.runtime
    calls = {
        "wait": lambda: runtime.deviceSynchronize(),
        "copy": lambda: runtime.memcpy(
            x.data.ptr, np.ones(3, np.float32).ctypes.data, 12, runtime.memcpyHostToDevice
        ),
        "memory": lambda: runtime.malloc(2**20),
        "legacy": lambda: runtime.memsetAsync(x.data.ptr, 0, 12, 0),
    }
    said = "Implicit" if what in ("copy", "legacy") else "Unsupported"
    with stream:
        stream.begin_capture(runtime.streamCaptureModeGlobal)
        with pytest.raises(runtime.CUDARuntimeError, match=f"cudaErrorStreamCapture{said}"):
            calls[what]()
        with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()


WRONG = {
    "a host address": (
        "void test(float* x) { *x = 1; }",
        "(numpy.zeros(1).ctypes.data,)",
        "illegal address",
    ),
    "a vector that is not aligned": (
        "void test(float* x) { *(float4*)(x + 1) = make_float4(0, 0, 0, 0); }",
        "(cupy.zeros(8, 'f'),)",
        "misaligned address",
    ),
    "too far in shared memory": (
        "void test(float* x) { __shared__ float y[4]; y[threadIdx.x] = *x; __syncthreads();"
        " *x = y[31 - threadIdx.x]; }",
        "(cupy.zeros(8, 'f'),)",
        "address outside of shared memory",
    ),
    "a barrier that some leave out in a shuffle": (
        "void test(float* x) { if (threadIdx.x) __syncthreads();"
        " else *x = __shfl_xor_sync(0xFFFFFFFF, *x, 1); }",
        "(cupy.zeros(8, 'f'),)",
        "wait for ever for others",
    ),
    "an instruction that is not modelled": (
        'void test(unsigned* x) { asm("brev.b32 %0, %0;" : "+r"(*x)); }',
        "(cupy.zeros(8, 'u4'),)",
        "does not know 'brev.b32'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(cupy, name):
    code, arguments, said = WRONG[name]
    code = 'extern "C" __global__ ' + code
    program = f"import cupy, numpy; cupy.RawKernel({code!r}, 'test')((1,), (32,), {arguments})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0
    assert said in done.stderr


def test_launches_that_no_gpu_takes(cupy):
    for grid, block, shared in (((1,), (2048,), 0), ((1, 2**16), (1,), 0), ((1,), (1,), 2**16)):
        with pytest.raises(cupy.cuda.driver.CUDADriverError):
            kernel("void test() {}")(grid, block, (), shared_mem=shared)


def test_functions_that_are_not_modelled_say_so(cupy):
    program = "import cupy; cupy.cuda.runtime.mallocManaged(16)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0
    assert "cudaMallocManaged is not modelled" in done.stderr
