"""``orders`` on a GPU: one thread a sum, rounded to nearest-even; the bits of ``sums.cpu``."""

from __future__ import annotations

from functools import cache
from typing import Any

from fp16sim.backend import Array, carrier_of
from fp16sim.formats import Format
from fp16sim.kernels import cuda
from fp16sim.kernels.layout import Carrier, plan

#: C++ for one sum; T is float or double, W the unsigned type of its bits
SUM = """
struct Rounding { W lowest, highest, to_constant, largest, infinite; };

__device__ T rounded(T x, const Rounding& p) {
    if (!ROUNDS) return x;
    const W word = bits_of(x);
    W power = word & INFINITE;
    power = power < p.lowest ? p.lowest : power > p.highest ? p.highest : power;
    const T constant = float_of(power + p.to_constant);
    const W result = bits_of(SUB(ADD(x, constant), constant));
    W size = result & ~SIGN;
    if (size > p.largest && size <= INFINITE) size = p.infinite;
    return float_of(size | (result & SIGN));
}

__device__ T sequential(const FACTOR* x, long long dx, const FACTOR* y, long long dy, long long k,
                        const Rounding& p) {
    T total = 0;
    for (; k; --k, x += dx, y += dy)
        total = rounded(ADD(total, rounded(MUL(T(*x), T(*y)), p)), p);
    return total;
}

__device__ T fma_(const FACTOR* x, long long dx, const FACTOR* y, long long dy, long long k,
                  const Rounding& p) {
    T total = 0;
    for (; k; --k, x += dx, y += dy) total = rounded(ADD(MUL(T(*x), T(*y)), total), p);
    return total;
}

__device__ T pairwise(const FACTOR* x, long long dx, const FACTOR* y, long long dy, long long k,
                      const Rounding& p) {
    T slots[64];  // slot i holds a sum of 2^i products if bit i of the count is set
    for (long long count = 0; count < k; ++count, x += dx, y += dy) {
        T total = rounded(MUL(T(*x), T(*y)), p);
        int i = 0;
        for (; count >> i & 1; ++i) total = rounded(ADD(slots[i], total), p);
        slots[i] = total;
    }
    T total = 0;
    bool first = true;
    for (int i = 0; k >> i; ++i) {
        if (!(k >> i & 1)) continue;
        total = first ? slots[i] : rounded(ADD(slots[i], total), p);
        first = false;
    }
    return total;
}

__device__ T kahan(const FACTOR* x, long long dx, const FACTOR* y, long long dy, long long k,
                   const Rounding& p) {
    T total = 0, error = 0;
    for (; k; --k, x += dx, y += dy) {
        const T term = rounded(SUB(rounded(MUL(T(*x), T(*y)), p), error), p), before = total;
        total = rounded(ADD(total, term), p);
        error = rounded(SUB(rounded(SUB(total, before), p), term), p);
    }
    return total;
}
"""

#: one sum by METHOD; or of blocks, added in BETWEEN, float or double, which holds all of theirs
KERNEL = """
extern "C" __global__ void add_up(
    const FACTOR* a, const FACTOR* b, RESULT* out, long long m, long long n, long long k,
    long long block, bool vectors, W lowest, W highest, W to_constant, W largest, W infinite) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= m * n) return;
    const Rounding p = {lowest, highest, to_constant, largest, infinite};
    const FACTOR* x = a + (vectors ? i : i / n) * k;
    const FACTOR* y = vectors ? b + i * k : b + i % n;
    const long long step = vectors ? 1 : n;
    if (!block) {
        out[i] = METHOD(x, 1, y, step, k, p) + 0;
        return;
    }
    BETWEEN total = 0;
    for (long long start = 0; start < k; start += block) {
        const long long length = block < k - start ? block : k - start;
        total += BETWEEN(METHOD(x + start, 1, y + start * step, step, length, p));
    }
    out[i] = total + 0;
}
"""

_NAMES = {
    "float32": ("float", "unsigned int", "__float_as_uint", "__uint_as_float", "__f{}_rn"),
    "float64": (
        "double",
        "unsigned long long",
        "__double_as_longlong",
        "__longlong_as_double",
        "__d{}_rn",
    ),
}


def definitions(carrier: Carrier, rounds: bool, factor: str, between: str, result: str) -> str:
    """What the names in capitals, and the functions on bits, stand for in CUDA."""
    real, word, bits_of, float_of, operation = _NAMES[str(carrier.fmt.name).replace("fp", "float")]
    lines = [f"typedef {real} T;", f"typedef {word} W;"]
    lines += [f"#define {name.upper()} {operation.format(name)}" for name in ("add", "sub", "mul")]
    lines += [
        f"#define bits_of(x) W({bits_of}(x))",
        f"#define float_of(w) {float_of}(w)",
        f"#define SIGN W({carrier.sign_mask}ull)",
        f"#define INFINITE W({carrier.exponent_mask}ull)",
        f"#define ROUNDS {int(rounds)}",
        f"#define FACTOR {factor}",
        f"#define BETWEEN {between}",
        f"#define RESULT {result}",
    ]
    return "\n".join(lines)


def constants(fmt: Format, saturate: bool, carrier: Carrier) -> tuple[Any, ...]:
    """The arguments from ``lowest`` on."""
    p = plan(fmt, "ties_to_even", saturate, True, carrier)
    point = carrier.words(carrier.fraction_bits)
    one, half = carrier.words(1), carrier.words(1 << (carrier.fraction_bits - 1))
    lowest = p.emin_field << point
    highest = (p.largest & carrier.exponent_mask) + (one << point)
    return lowest, highest, p.dropped << point | half, p.largest, p.infinite


@cache
def _kernel(
    method: str, carrier: Carrier, rounds: bool, factor: str, between: str, result: str
) -> Any:
    code = definitions(carrier, rounds, factor, between, result) + SUM
    code += KERNEL.replace("METHOD", "fma_" if method == "fma" else method)
    return cuda.kernel(code, "add_up")


def add_up(
    a: Array,
    b: Array,
    out: Array,
    method: str,
    fmt: Format,
    saturate: bool,
    carrier: Carrier,
    block: int | None,
    between: Format,
) -> None:
    """Fill ``out`` with sums of products of CuPy arrays; shapes as in ``sums.terms``.

    between: FP32 or FP64, for the sums of blocks; contains ``fmt``.
    """
    import cupy

    vectors = out.ndim == 1
    m, n = (out.size, 1) if vectors else out.shape
    a, b, flat = (cupy.ascontiguousarray(p) for p in (a, b, out))
    types = {"float32": "float", "float64": "double"}
    adds = types[carrier_of(between).name]
    kernel = _kernel(
        method, carrier, fmt != carrier.fmt, types[a.dtype.name], adds, types[out.dtype.name]
    )
    threads = 128
    sizes = (cupy.int64(m), cupy.int64(n), cupy.int64(a.shape[1]), cupy.int64(block or 0))
    arguments = (a, b, flat, *sizes, vectors, *constants(fmt, saturate, carrier))
    kernel((-(-out.size // threads),), (threads,), arguments)
    if flat is not out:
        out[...] = flat
