"""What all kernels' texts share: storage types, sums across threads, launch geometry.

Nothing is included, so that a compiler is all that is needed: 16-bit numbers are their bits.
"""

from __future__ import annotations

from typing import TypeAlias

#: CUDA's types by the names of dtypes
STORAGE = {"float16": "half", "bfloat16": "bfloat16", "float32": "float"}

Size: TypeAlias = tuple[int, ...]

#: what only a GPU can; tests put the host's own in its place
DEVICE = """
__device__ __forceinline__ float float_of_half(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

__device__ __forceinline__ unsigned short half_of_float(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
"""

#: bf16 is rounded in integers, since GPUs before sm_80 have no instruction for it
TYPES = """
typedef long long I;
struct half { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

#define INFINITE __uint_as_float(0x7F800000u)
#define NOT_A_NUMBER __uint_as_float(0x7FFFFFFFu)

__device__ __forceinline__ float loaded(float x) { return x; }
__device__ __forceinline__ float loaded(half x) { return float_of_half(x.bits); }
__device__ __forceinline__ float loaded(bfloat16 x) {
    return __uint_as_float((unsigned)x.bits << 16);
}

template <class S> __device__ __forceinline__ S stored(float x);
template <> __device__ __forceinline__ float stored<float>(float x) { return x; }
template <> __device__ __forceinline__ half stored<half>(float x) { return {half_of_float(x)}; }
template <> __device__ __forceinline__ bfloat16 stored<bfloat16>(float x) {
    const unsigned word = __float_as_uint(x);
    if (x != x) return {0x7FFF};  // its payload must not carry into the sign
    return {(unsigned short)((word + 0x7FFF + (word >> 16 & 1)) >> 16)};
}
"""

#: numbers that are moved at once: 16 bytes of the storage type T. Threads that move two bytes each
#: leave most of a GPU's bandwidth unused.
PACK = """
template <int N, class V = T> struct alignas(N * sizeof(V)) Pack { V at[N]; };
#define WIDE int(16 / sizeof(T))
"""


def at_once(number: int) -> str:
    """Text of N, how many numbers a thread moves at once."""
    return f"constexpr int N = {number};\n"


#: A thread for each place of each plane; the places of a plane begin a block.
PLANES = """
#define PLANE(plane, place, places) \\
    const unsigned blocks = ((unsigned)(places) + blockDim.x - 1) / blockDim.x; \\
    const I plane = blockIdx.x / blocks; \\
    const int place = blockIdx.x % blocks * blockDim.x + threadIdx.x; \\
    if (place >= (places)) return;
"""

#: A row belongs to the blockDim.x threads of one threadIdx.y, at least a warp; if these are more
#: than a warp, they are the whole block. Sums are in a fixed order, and all threads get the result.
ROWS = """
#define ROW(rows) \\
    const I row = blockIdx.x * (I)blockDim.y + threadIdx.y; \\
    if (row >= rows) return;
#define EACH(i, n) for (I i = threadIdx.x; i < n; i += blockDim.x)
#define LANE threadIdx.x
#define START(row) (row) * n
#define AT(i) i

template <class Op> __device__ __forceinline__ float across(float x, Op op) {
    for (int lanes = 16; lanes; lanes /= 2) x = op(x, __shfl_xor_sync(0xFFFFFFFFu, x, lanes));
    if (blockDim.x == 32) return x;
    __shared__ float warps[32];
    __syncthreads();  // all have read what the last call left here
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) x = op(x, warps[warp]);
    return x;
}

__device__ __forceinline__ float sum(float x) {
    return across(x, [](float a, float b) { return a + b; });
}

__device__ __forceinline__ float most(float x) {
    return across(x, [](float a, float b) { return fmaxf(a, b); });
}
"""

#: The same for rows whose values are ``inner`` apart: a row is one thread's, its neighbours' values
#: lie beside its own.
APART = """
#define ROW(rows) \\
    const I row = blockIdx.x * (I)blockDim.x + threadIdx.x; \\
    if (row >= rows) return;
#define EACH(i, n) for (I i = 0; i < n; ++i)
#define LANE 0
#define START(row) (row) / inner * n * inner + (row) % inner
#define AT(i) (i) * inner

__device__ __forceinline__ float sum(float x) { return x; }
__device__ __forceinline__ float most(float x) { return x; }
"""


def code(*parts: str, **types: str) -> str:
    """A module's text: the parts, in which each of the types stands for the one of that dtype."""
    names = "".join(f"typedef {STORAGE[dtype]} {name};\n" for name, dtype in types.items())
    return "".join((DEVICE, TYPES, names, *parts))


def over(size: int, each: int = 1, threads: int = 256, most: int = 2**16) -> tuple[Size, Size]:
    """Grid and block for loops in strides of the grid over so many values, ``each`` a turn."""
    return (max(1, min(-(-size // (each * threads)), most)),), (threads,)


#: up to so many values a row is a warp's: 32 a thread
SHORT = 1024


def of_rows(rows: int, width: int) -> tuple[Size, Size]:
    """Grid and block for ``ROW``: a warp for short rows, or a block of about 16 values a thread."""
    if width <= SHORT:
        return (-(-rows // 4),), (32, 4)
    threads = 1 << max(7, min(10, (-(-width // 16) - 1).bit_length()))
    return (rows,), (threads, 1)


def of_threads(count: int) -> tuple[Size, Size]:
    """Grid and block for a thread each."""
    return (-(-count // 256),), (256,)


def of_planes(planes: int, places: int) -> tuple[Size, Size]:
    """Grid and block for ``PLANE``."""
    threads = min(256, -(-places // 32) * 32)
    return (planes * -(-places // threads),), (threads,)
