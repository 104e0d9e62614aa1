"""What ctypes hands to cuBLAS arrives: a C library with the declarations of cublas_api.h."""

import ctypes
import subprocess

import numpy as np
import pytest

from fp16sim.kernels import gemm

# Types and order as in cublas_api.h of CUDA 13; fp32 only, in columns, as its manual says.
SOURCE = r"""
extern "C" {
typedef void* cublasHandle_t; typedef int Op, Type, Compute, Algo, Status;
static int mode = 3;
static float at(const float* a, Op turned, int lead, int i, int j) {
    return turned ? a[j + (long long)i * lead] : a[i + (long long)j * lead];
}
Status cublasGemmStridedBatchedEx(
    cublasHandle_t handle, Op ta, Op tb, int m, int n, int k, const void* alpha,
    const void* A, Type at_, int lda, long long sa, const void* B, Type bt, int ldb, long long sb,
    const void* beta, void* C, Type ct, int ldc, long long sc, int count, Compute compute,
    Algo algorithm) {
    if (handle != (void*)7 || at_ || bt || ct || compute != 68 || algorithm != -1) return 7;
    if (*(const float*)alpha != 1 || mode != 16) return 8;
    for (int b = 0; b < count; ++b)
        for (int i = 0; i < m; ++i)
            for (int j = 0; j < n; ++j) {
                float sum = 0;
                for (int l = 0; l < k; ++l)
                    sum += at((const float*)A + b * sa, ta, lda, i, l) *
                           at((const float*)B + b * sb, tb, ldb, l, j);
                float* out = (float*)C + b * sc + i + (long long)j * ldc;
                *out = sum + (*(const float*)beta ? *(const float*)beta * *out : 0);
            }
    return 0;
}
Status cublasGemmEx(
    cublasHandle_t handle, Op ta, Op tb, int m, int n, int k, const void* alpha,
    const void* A, Type at_, int lda, const void* B, Type bt, int ldb,
    const void* beta, void* C, Type ct, int ldc, Compute compute, Algo algorithm) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, A, at_, lda, 0, B, bt, ldb,
                                      0, beta, C, ct, ldc, 0, 1, compute, algorithm);
}
Status cublasGetMathMode(cublasHandle_t handle, int* to) { *to = mode; return handle != (void*)7; }
Status cublasSetMathMode(cublasHandle_t handle, int to) { mode = to; return handle != (void*)7; }
Status cublasSetStream_v2(cublasHandle_t handle, void* stream) {
    return handle == (void*)7 && stream == (void*)9 ? 0 : 1;
}
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blas")
    (folder / "blas.cpp").write_text(SOURCE)
    target = folder / "libblas.so"
    command = ["g++", "-O1", "-shared", "-fPIC", "-o", target, folder / "blas.cpp"]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(target))
    for function, arguments in gemm.SIGNATURES.items():
        getattr(loaded, function).argtypes = arguments
    return loaded


def test_products(library, monkeypatch):
    monkeypatch.setattr(gemm, "_library", lambda: (library, 7))
    monkeypatch.setattr(gemm, "address", lambda array: array.ctypes.data)
    rng = np.random.default_rng(0)
    for batch in ((), (3,), (2, 2)):
        x = rng.integers(-4, 5, (*batch, 3, 4)).astype(np.float32)
        y = rng.integers(-4, 5, (*batch, 5, 4)).astype(np.float32).swapaxes(-1, -2)
        out = gemm.product(x, y)
        np.testing.assert_array_equal(out, x @ y)
        np.testing.assert_array_equal(gemm.product(x, y, out=out, onto=True), 2 * (x @ y))
    mode = ctypes.c_int()
    library.cublasGetMathMode(7, ctypes.byref(mode))
    assert mode.value == 3  # as CuPy had it
    assert library.cublasSetStream_v2(7, 9) == 0
