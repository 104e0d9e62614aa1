"""NVIDIA's matrix units emulated on a GPU, in integers: one thread a sum, the bits of ``cpu``."""

from __future__ import annotations

from functools import cache
from typing import Any

from fp16sim.backend import Array
from fp16sim.formats import FP16, FP32, Format
from fp16sim.kernels import cuda
from fp16sim.kernels.units.steps import Aligned

#: C++ for one sum: |x| = m 2^(e-23) for every number, subnormal ones with their format's emin
CHAIN = """
typedef long long I;

struct Number { I m; int e; bool negative, infinite, nan; };

__device__ I shifted(I m, int right) {
    return !m || right > 62 ? 0 : right < 0 ? m << -right : m >> right;
}

__device__ Number taken_apart(float x, int emin) {
    const unsigned word = bits_of(x), fraction = word & 0x7FFFFF;
    const int field = word >> 23 & 255;
    Number r = {I(field ? fraction | 0x800000 : fraction), (field ? field : 1) - 127,
                bool(word >> 31), field == 255 && !fraction, field == 255 && fraction};
    if (r.e < emin) { r.m = shifted(r.m, emin - r.e); r.e = emin; }  // loses only zeros
    return r;
}

__device__ int highest_bit(I m) { int n = -1; while (m) { m >>= 1; ++n; } return n; }

// The sum S 2^unit as the unit stores it, a float.
__device__ float stored(I sum, int unit, int kept, bool half) {
    const bool negative = sum < 0;
    I size = negative ? -sum : sum;
    if (!size) return 0;
    const int emin = half ? -14 : -126, bits = half ? 10 : kept;
    const int e = highest_bit(size) + unit, lowest = (e < emin ? emin : e) - bits;
    const int drop = lowest - unit;
    I q = shifted(size, drop);
    if (half && drop > 0) {  // to nearest, ties to even; all is cut off if drop is large
        const I rest = size - (drop > 62 ? 0 : q << drop);
        const I tie = drop > 62 ? size : I(1) << (drop - 1);
        if (rest > tie || (rest == tie && (q & 1))) ++q;
    }
    if (!q) return 0;
    const int top = highest_bit(q);
    const int exponent = top + lowest;
    unsigned word;
    if (exponent > (half ? 15 : 127)) word = 0x7F800000;
    else if (exponent >= -126)
        word = unsigned(exponent + 127) << 23 | (unsigned(shifted(q, top - 23)) & 0x7FFFFF);
    else word = unsigned(shifted(q, -149 - lowest));
    return float_of(word | unsigned(negative) << 31);
}

__device__ float step(float c, const float* x, I dx, const float* y, I dy, I length,
                      int F, int kept, int emin_x, int emin_y, bool half) {
    bool up = false, down = false, nan = false;
    const int none = -100000;
    int E = none;
    const Number z = taken_apart(c, half ? -14 : -126);
    nan |= z.nan;
    if (z.infinite) (z.negative ? down : up) = true;
    if (z.m && !z.infinite && !z.nan) E = z.e;
    for (I i = 0; i < length; ++i) {
        const Number p = taken_apart(x[i * dx], emin_x), q = taken_apart(y[i * dy], emin_y);
        const bool special = p.infinite || q.infinite || p.nan || q.nan;
        const bool zero = (!p.m && !p.infinite && !p.nan) || (!q.m && !q.infinite && !q.nan);
        if (special) {
            nan |= p.nan || q.nan || zero;
            (p.negative != q.negative ? down : up) = true;
        } else if (!zero && p.e + q.e > E) E = p.e + q.e;
    }
    if (nan || (up && down)) return float_of(0x7FFFFFFFu);
    if (up || down) return float_of(up ? 0x7F800000u : 0xFF800000u);
    if (E == none) return 0;
    I sum = shifted(z.m, 23 - F + E - z.e);
    if (z.negative) sum = -sum;
    for (I i = 0; i < length; ++i) {
        const Number p = taken_apart(x[i * dx], emin_x), q = taken_apart(y[i * dy], emin_y);
        const I term = shifted(p.m * q.m, 46 - F + E - p.e - q.e);
        sum += p.negative != q.negative ? -term : term;
    }
    return stored(sum, E - F, kept, half);
}

__device__ float chain(float c, const float* x, I dx, const float* y, I dy, I k, int L,
                       int F, int kept, int emin_x, int emin_y, bool half) {
    for (I start = 0; start < k; start += L) {
        const I length = L < k - start ? L : k - start;
        c = step(c, x + start * dx, dx, y + start * dy, dy, length, F, kept, emin_x, emin_y, half);
    }
    return c;
}
"""

KERNEL = """
extern "C" __global__ void add_up(
    const float* a, const float* b, float* out, long long m, long long n, long long k,
    bool vectors, int L, int F, int kept, int emin_x, int emin_y, bool half) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= m * n) return;
    const float* x = a + (vectors ? i : i / n) * k;
    const float* y = vectors ? b + i * k : b + i % n;
    out[i] = chain(out[i], x, 1, y, vectors ? 1 : n, k, L, F, kept, emin_x, emin_y, half);
}
"""

DEFINITIONS = """
#define bits_of(x) __float_as_uint(x)
#define float_of(w) __uint_as_float(w)
"""


def numbers(
    step: Aligned, operands: tuple[Format, Format], output: Format
) -> tuple[int, int, int, int, int, bool]:
    """The arguments from L on."""
    kept = FP32.precision - 1 if output == FP16 else step.kept_bits
    emins = (operands[0].emin, operands[1].emin)
    return step.length, step.fraction_bits, kept, *emins, output == FP16


@cache
def _kernel() -> Any:
    return cuda.kernel(DEFINITIONS + CHAIN + KERNEL, "add_up")


def add_up(
    a: Array,
    b: Array,
    out: Array,
    step: Aligned,
    operands: tuple[Format, Format],
    output: Format,
) -> None:
    """Add the products of CuPy arrays to ``out``, as ``cpu.add_up`` does; an ``Aligned`` step."""
    import cupy

    vectors = out.ndim == 1
    m, n = (out.size, 1) if vectors else out.shape
    a, b, flat = (cupy.ascontiguousarray(p) for p in (a, b, out))
    threads = 128
    sizes = (cupy.int64(m), cupy.int64(n), cupy.int64(a.shape[1]))
    *integers, half = numbers(step, operands, output)
    arguments = (a, b, flat, *sizes, vectors, *map(cupy.int32, integers), half)
    _kernel()((-(-out.size // threads),), (threads,), arguments)
    if flat is not out:
        out[...] = flat
