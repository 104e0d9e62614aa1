"""Matrix products on a GPU by cuBLAS: operands as they are kept, sums in fp32.

CuPy's own ``matmul`` widens batches of fp16 matrices to fp32 before it multiplies them, refuses
batches of bf16, and takes another way for vectors. This one hands everything to two functions of
cuBLAS, with views of transposed matrices as they are.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fp16sim.backend import Array, address, carried, namespace_of, tf32_allowed
from fp16sim.kernels import written

# cudaDataType_t and cublasComputeType_t, library_types.h and cublas_api.h of CUDA 12 and 13.
_TYPES = {"float16": 2, "bfloat16": 14, "float32": 0}
_SUM_IN_FP32, _READ_AS_TF32 = 68, 77
_DEFAULT_ALGORITHM = -1
_AS_IT_IS, _TRANSPOSED = 0, 1
# cublasMath_t: parts of a sum must not be rounded to a 16-bit result's format before they are added
_ONE_ROUNDING = 16


class Matrices(NamedTuple):
    """A batch of matrices as cuBLAS is told of it; all distances in elements."""

    array: Array
    #: whether rows lie one after the other (columns, in cuBLAS's words) or columns do
    by_rows: bool
    #: from one row (or column) to the next
    leading: int
    #: from one matrix to the next; 0: there is just one for all
    stride: int


def described(x: Array, batch: tuple[int, ...]) -> Matrices:
    """A view (..., rows, columns), broadcast over a batch; copied if cuBLAS cannot read it."""
    rows, columns = x.shape[-2:]
    x = namespace_of(x).broadcast_to(x, (*batch, rows, columns))
    steps = [step // x.dtype.itemsize for step in x.strides]
    stride = _one_stride(batch, steps[:-2])
    across, along = steps[-2:]
    # An axis of one element has no step; a matrix of cuBLAS's has one not below its other size.
    if stride is not None and (along == 1 or columns == 1) and (across >= columns or rows == 1):
        return Matrices(x, True, max(across if rows > 1 else 0, columns), stride)
    if stride is not None and (across == 1 or rows == 1) and (along >= rows or columns == 1):
        return Matrices(x, False, max(along if columns > 1 else 0, rows), stride)
    x = namespace_of(x).ascontiguousarray(x)
    return Matrices(x, True, columns, rows * columns)


def _one_stride(batch: tuple[int, ...], steps: list[int]) -> int | None:
    """The distance between neighbours of a batch of several axes, if it is the same everywhere."""
    axes = [(size, step) for size, step in zip(batch, steps, strict=True) if size > 1]
    if not axes:
        return 0
    inner = axes[-1][1]
    expected = inner
    for size, step in reversed(axes):
        if step != expected:
            return None
        expected = step * size
    return inner


def product(x: Array, y: Array, out: Array | None = None, *, onto: bool = False) -> Array:
    """x (..., m, k) @ y (..., k, n), leading axes broadcast; float32, or float64 of float64.

    out: where to write it: of the result's shape, its rows as they would lie in a larger array, and
    in float32 or in the operands' dtype, to which the sum in fp32 is rounded once; None: to a new
    array. onto: out is added to.
    """
    xp = namespace_of(x)
    if x.dtype != y.dtype or x.dtype.name not in _TYPES or min(x.ndim, y.ndim) < 2:
        wide: Array = xp.matmul(carried(x), carried(y))
        return written(wide, out, onto)
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    (m, k), n = x.shape[-2:], y.shape[-1]
    result: Array = xp.empty((*batch, m, n), np.float32) if out is None else out
    if not (result.size and k):
        if not onto:
            result[...] = 0
        return result
    reads = _READ_AS_TF32 if x.dtype == np.float32 and tf32_allowed() else _SUM_IN_FP32
    sides, count = (described(x, batch), described(y, batch)), math.prod(batch)
    written_to = described(result, batch)
    if not written_to.by_rows or address(written_to.array) != address(result):
        raise ValueError(f"out has strides {result.strides}, in which cuBLAS cannot write")
    _call(*sides, written_to, (m, n, k), count, reads, float(onto))
    return result


def _call(
    left: Matrices,
    right: Matrices,
    out: Matrices,
    sizes: tuple[int, int, int],
    count: int,
    how: int,
    keeping: float,
) -> None:
    """One call of cuBLAS. It thinks in columns, where the same memory is out' = right' left'."""
    cublas, handle = _library()
    m, n, k = sizes
    one, kept = (ctypes.byref(ctypes.c_float(number)) for number in (1, keeping))
    kind, keeps = _TYPES[left.array.dtype.name], _TYPES[out.array.dtype.name]
    turns = [_AS_IT_IS if side.by_rows else _TRANSPOSED for side in (right, left)]
    first, second, third = (address(array) for array in (right.array, left.array, out.array))
    before = ctypes.c_int()
    cublas.cublasGetMathMode(handle, ctypes.byref(before))  # CuPy's own products use this handle
    cublas.cublasSetMathMode(handle, _ONE_ROUNDING)
    if count == 1:
        status = cublas.cublasGemmEx(
            handle, *turns, n, m, k, one, first, kind, right.leading,
            second, kind, left.leading, kept, third, keeps, out.leading,
            how, _DEFAULT_ALGORITHM,
        )  # fmt: skip
    else:
        status = cublas.cublasGemmStridedBatchedEx(
            handle, *turns, n, m, k, one, first, kind, right.leading, right.stride,
            second, kind, left.leading, left.stride, kept, third, keeps, out.leading, out.stride,
            count, how, _DEFAULT_ALGORITHM,
        )  # fmt: skip
    cublas.cublasSetMathMode(handle, before)
    if status:
        raise RuntimeError(f"cuBLAS says {status} of a product of {sizes}, {count} times")


_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_SIDE = (_POINTER, _INT, _INT)  # address, type, leading dimension
_HEAD = (_POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER)  # handle, turns, sizes, alpha
#: argument types, as cublas_api.h declares them
SIGNATURES = {
    "cublasSetStream_v2": (_POINTER, _POINTER),
    "cublasGetMathMode": (_POINTER, _POINTER),
    "cublasSetMathMode": (_POINTER, _INT),
    "cublasGemmEx": (*_HEAD, *_SIDE, *_SIDE, _POINTER, *_SIDE, _INT, _INT),
    "cublasGemmStridedBatchedEx": (
        *_HEAD, *_SIDE, _LONG, *_SIDE, _LONG, _POINTER, *_SIDE, _LONG, _INT, _INT, _INT,
    ),
}  # fmt: skip


def _library() -> tuple[Any, Any]:
    """cuBLAS, and the handle of the current device, set to the current stream.

    CuPy's own binding refuses to multiply while a stream records.
    """
    cuda = importlib.import_module("cupy.cuda")
    handle = cuda.device.get_cublas_handle()
    library = _loaded()
    library.cublasSetStream_v2(handle, cuda.get_current_stream().ptr)
    return library, handle


@cache
def _loaded() -> Any:
    """The library that CuPy has loaded, by the name that it is loaded under."""
    importlib.import_module("cupy.cuda").cublas.getVersion  # noqa: B018 - it is loaded when asked for
    for name in ("libcublas.so.13", "libcublas.so.12"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        for function, arguments in SIGNATURES.items():
            getattr(library, function).argtypes = arguments
        return library
    raise ImportError("neither libcublas.so.13 nor libcublas.so.12 can be loaded")
