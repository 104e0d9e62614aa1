"""What cuBLAS is told of matrices, by a stand-in that reads memory as cuBLAS's manual says.

cublasGemmEx and cublasGemmStridedBatchedEx think in columns: element (i, j) of a matrix is at
i + j * leading, and op(A) is A or its transpose.
"""

import ctypes

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fp16sim as fs
from fp16sim import kernels
from fp16sim.kernels import gemm

TYPES = {2: np.float16, 14: ml_dtypes.bfloat16, 0: np.float32}


def at(address, kind, count):
    """So many elements from an address on."""
    size = count * np.dtype(TYPES[kind]).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), TYPES[kind])


def operand(turned, rows, columns, address, kind, leading):
    """op(A) with so many rows and columns, as float32."""
    stored = (columns, rows) if turned else (rows, columns)
    assert leading >= max(stored[0], 1)
    flat = at(address, kind, leading * (stored[1] - 1) + stored[0])
    i, j = np.indices(stored)
    matrix = flat[i + j * leading].astype(np.float32)
    return matrix.T if turned else matrix


class FakeBlas:
    """Remembers how it was asked to compute."""

    mode = 0

    def cublasGetMathMode(self, handle, mode):
        mode._obj.value = self.mode

    def cublasSetMathMode(self, handle, mode):
        self.mode = getattr(mode, "value", mode)

    def cublasGemmEx(self, *arguments):
        head, (a, at_, lda), (b, bt, ldb) = arguments[:7], arguments[7:10], arguments[10:13]
        beta, c, ct, ldc, *how = arguments[13:]
        whole = (*head, a, at_, lda, 0, b, bt, ldb, 0, beta, c, ct, ldc, 0, 1, *how)
        return self.cublasGemmStridedBatchedEx(*whole)

    def cublasGemmStridedBatchedEx(self, *arguments):
        handle, ta, tb, m, n, k, alpha, a, at_, lda, sa, b, bt, ldb, sb = arguments[:15]
        beta, c, ct, ldc, sc, count, compute, algorithm = arguments[15:]
        self.compute = compute
        assert (handle, algorithm) == (7, -1)
        assert alpha._obj.value == 1
        assert beta._obj.value in (0, 1)
        assert self.mode == 16  # no parts of sums in 16 bits
        assert ldc >= m
        size = np.dtype(TYPES[at_]).itemsize
        for i in range(count):
            x = operand(ta, m, k, a + i * sa * size, at_, lda)
            y = operand(tb, k, n, b + i * sb * size, bt, ldb)
            out = at(c + np.dtype(TYPES[ct]).itemsize * i * sc, ct, ldc * (n - 1) + m)
            for column in range(n):
                place = slice(column * ldc, column * ldc + m)
                kept = np.float32(out[place]) if beta._obj.value else np.float32(0)
                out[place] = (x @ y)[:, column] + kept


@pytest.fixture
def blas(monkeypatch):
    fake = FakeBlas()
    monkeypatch.setattr(gemm, "_library", lambda: (fake, 7))
    monkeypatch.setattr(gemm, "address", lambda array: array.ctypes.data)
    return fake


def whole(rng, shape, dtype):
    """Small whole numbers: their sums are exact in any order."""
    return rng.integers(-4, 5, shape).astype(np.float32).astype(dtype)


VIEWS = {
    "plain": lambda rng, shape, dtype: whole(rng, shape, dtype),
    "turned": lambda rng, shape, dtype: whole(
        rng, (*shape[:-2], shape[-1], shape[-2]), dtype
    ).swapaxes(-1, -2),
    "columns of more": lambda rng, shape, dtype: whole(
        rng, (*shape[:-1], shape[-1] + 3), dtype
    )[..., 1 : 1 + shape[-1]],
    "every second": lambda rng, shape, dtype: whole(rng, (*shape[:-1], 2 * shape[-1]), dtype)[
        ..., ::2
    ],
    "heads": lambda rng, shape, dtype: np.moveaxis(
        whole(rng, (*shape[1:-1], shape[0], shape[-1]), dtype), -2, 0
    ),
    "backwards": lambda rng, shape, dtype: whole(rng, shape, dtype)[..., ::-1, :],
}  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES.values(), ids=["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("right", VIEWS)
@pytest.mark.parametrize("left", VIEWS)
def test_every_layout(blas, rng, left, right, dtype):
    for batch in ((2,), (3, 2), (1, 1)):
        for m, k, n in ((3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)):
            x = VIEWS[left](rng, (*batch, m, k), dtype)
            y = VIEWS[right](rng, (*batch, k, n), dtype)
            result = gemm.product(x, y)
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, np.float32(x) @ np.float32(y))
            np.testing.assert_array_equal(
                gemm.product(x[0], y[0]), np.float32(x[0]) @ np.float32(y[0])
            )


@given(st.data())
def test_batches_broadcast(data):
    rng = np.random.default_rng(0)
    axes = data.draw(st.lists(st.integers(1, 3), max_size=3))
    shapes = [
        tuple(
            data.draw(st.sampled_from([1, size]))
            for size in axes[data.draw(st.integers(0, len(axes))) :]
        )
        for _ in "xy"
    ]
    x, y = whole(rng, (*shapes[0], 2, 3), np.float16), whole(rng, (*shapes[1], 3, 4), np.float16)
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeBlas()
        patch.setattr(gemm, "_library", lambda: (fake, 7))
        patch.setattr(gemm, "address", lambda array: array.ctypes.data)
        np.testing.assert_array_equal(gemm.product(x, y), np.float32(x) @ np.float32(y))


def test_nothing_to_add(blas):
    empty = np.zeros((2, 3, 0), np.float16)
    assert (gemm.product(empty, np.zeros((2, 0, 4), np.float16)) == np.zeros((2, 3, 4))).all()
    assert gemm.product(np.zeros((0, 3), np.float16), np.zeros((3, 4), np.float16)).shape == (0, 4)


def test_into_an_array(blas, rng):
    x, y = whole(rng, (2, 3, 4), np.float16), whole(rng, (4, 5), np.float16)
    out = np.empty((4, 3, 5), np.float32)
    assert gemm.product(x, y, out=out[1:3]).base is out
    np.testing.assert_array_equal(out[1:3], np.float32(x) @ np.float32(y))


@pytest.mark.parametrize("dtype", TYPES.values(), ids=["fp16", "bf16", "fp32"])
def test_rounded_once_and_added_to_what_is_there(blas, rng, dtype):
    """By cuBLAS, and by NumPy, which takes its place on the host."""
    for batch in ((), (3,)):
        x = (rng.standard_normal((*batch, 3, 40)) * 9).astype(dtype)
        y = rng.standard_normal((*batch, 40, 5)).astype(dtype)
        start = rng.standard_normal((*batch, 3, 5)).astype(dtype)
        sums = np.float32(x) @ np.float32(y)
        for multiply in (gemm.product, kernels.product):
            out = start.copy()
            assert multiply(x, y, out=out) is out
            np.testing.assert_array_equal(out, sums.astype(dtype))
            out = start.copy()
            assert multiply(x, y, out=out, onto=True) is out
            np.testing.assert_array_equal(out, (sums + np.float32(start)).astype(dtype))
    assert blas.mode == 0  # as it was


def test_nothing_added_to_something(blas):
    out = np.ones((2, 4), np.float16)
    empty = np.zeros((2, 0), np.float16), np.zeros((0, 4), np.float16)
    assert (gemm.product(*empty, out=out, onto=True) == 1).all()
    assert (gemm.product(*empty, out=out) == 0).all()


def test_what_cublas_refuses_is_an_error(blas, monkeypatch):
    monkeypatch.setattr(FakeBlas, "cublasGemmEx", lambda *_: 13)
    with pytest.raises(RuntimeError, match=r"cuBLAS says 13 of a product of \(2, 2, 2\), 1 times"):
        gemm.product(np.ones((2, 2), np.float16), np.ones((2, 2), np.float16))


def test_tf32_only_where_it_is_allowed(blas):
    x = np.ones((2, 2), np.float32)
    gemm.product(x, x)
    assert blas.compute == 68
    with fs.storage(tf32=True):
        gemm.product(x, x)
        assert blas.compute == 77
        gemm.product(x.astype(np.float16), x.astype(np.float16))
        assert blas.compute == 68
    assert gemm.product(x.astype(np.float64), x).dtype == np.float64  # CuPy's own


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_into_a_part_of_a_larger_array(blas, rng, dtype):
    x, y = (rng.integers(-4, 5, shape).astype(np.float16) for shape in ((2, 3, 4), (2, 4, 5)))
    whole = np.full((3, 6, 8), 7, dtype)
    part = whole[1:, 2:5, 1:6]
    expected = np.matmul(x.astype(np.float32), y.astype(np.float32))
    assert gemm.product(x, y, out=part) is part
    np.testing.assert_array_equal(part, expected)
    gemm.product(x, y, out=part, onto=True)
    np.testing.assert_array_equal(part, 2 * expected)
    part[...] = 7
    assert (whole == 7).all()


def test_where_cublas_cannot_write(blas):
    x = np.ones((2, 3, 3), np.float16)
    apart, turned = np.empty((2, 3, 6), np.float16)[..., ::2], x.copy().swapaxes(1, 2)
    for out in (apart, turned):
        with pytest.raises(ValueError, match="out has strides"):
            gemm.product(x, x, out=out)
