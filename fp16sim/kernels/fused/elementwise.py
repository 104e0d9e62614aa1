"""Functions of one number, forward and backward; sums of two; other storage types."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Function(NamedTuple):
    """C expressions in floats."""

    #: of x
    forward: str
    #: of the result's gradient g, and of x or of the stored y
    backward: str
    #: which of these two backward needs
    saves: str


FUNCTIONS = {
    "relu": Function("x < 0 ? 0 : x + 0", "y == 0 ? 0 : g", "y"),  # a NaN passes
    "exp": Function("expf(x)", "g * y", "y"),
    "tanh": Function("tanhf(x)", "g * (1 - y * y)", "y"),
    "sigmoid": Function("sigmoid(x)", "g * (1 - y) * y", "y"),
    "softplus": Function("fmaxf(x, 0) + log1pf(expf(-fabsf(x)))", "g * sigmoid(x)", "x"),
    "silu": Function("clipped(x, -800, INFINITE) * sigmoid(x)", "g * silu_slope(x)", "x"),
    "gelu": Function("gelu(x)", "g * gelu_slope(x)", "x"),
    "gelu_tanh": Function("gelu_tanh(x)", "g * gelu_tanh_slope(x)", "x"),
}

#: Slopes as in ``plain``, but with no error of more than some ulps for sigmoids of numbers far
#: below 0. Infinite x must not meet a zero; a NaN passes through comparisons that are false.
HELPERS = """
__device__ __forceinline__ float clipped(float x, float least, float largest) {
    return x < least ? least : x > largest ? largest : x;
}

__device__ __forceinline__ float sigmoid(float x) {
    const float e = expf(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}

__device__ __forceinline__ float silu_slope(float x) {
    const float s = sigmoid(x);
    return s * (1 + clipped(x, -800, 800) * (1 - s));
}

// x Phi(x) with the normal distribution's Phi
__device__ __forceinline__ float gelu(float x) {
    return clipped(x, -50, INFINITE) * (0.5f * erfcf(x * -0.707106781f));
}

__device__ __forceinline__ float gelu_slope(float x) {
    x = clipped(x, -50, 50);
    return 0.5f * erfcf(x * -0.707106781f) + x * expf(x * x * -0.5f) * 0.398942280f;
}

// x sigmoid(2u) with 2u = 1.59... (x + 0.044715 x^3)
__device__ __forceinline__ float twice(float x) {
    return (x * x * 0.0713548163f + 1.59576912f) * x;
}

__device__ __forceinline__ float gelu_tanh(float x) {
    x = clipped(x, -50, INFINITE);
    return x * sigmoid(twice(x));
}

__device__ __forceinline__ float gelu_tanh_slope(float x) {
    x = clipped(x, -50, 50);
    const float s = sigmoid(twice(x));
    return s * (1 + x * (1 - s) * (x * x * 0.214064449f + 1.59576912f));
}
"""

#: packs: how many whole ones there are, 0 if an array does not begin on 16 bytes
ONE = """
__device__ __forceinline__ float value(float x) { return FORWARD; }

extern "C" __global__ void forward(const T* x, T* y, I size, I packs) {
    const I first = blockIdx.x * (I)blockDim.x + threadIdx.x, step = gridDim.x * (I)blockDim.x;
    for (I i = first; i < packs; i += step) {
        Pack<WIDE> pack = ((const Pack<WIDE>*)x)[i];
        for (int k = 0; k < WIDE; ++k) pack.at[k] = stored<T>(value(loaded(pack.at[k])));
        ((Pack<WIDE>*)y)[i] = pack;
    }
    for (I i = packs * WIDE + first; i < size; i += step) y[i] = stored<T>(value(loaded(x[i])));
}
"""

TWO = """
__device__ __forceinline__ float result(float LEFT, float RIGHT) { return EXPRESSION; }

extern "C" __global__ void NAME(const T* left, const T* right, T* out, I size, I packs) {
    const I first = blockIdx.x * (I)blockDim.x + threadIdx.x, step = gridDim.x * (I)blockDim.x;
    for (I i = first; i < packs; i += step) {
        Pack<WIDE> pack = ((const Pack<WIDE>*)left)[i];
        const Pack<WIDE> other = ((const Pack<WIDE>*)right)[i];
        for (int k = 0; k < WIDE; ++k)
            pack.at[k] = stored<T>(result(loaded(pack.at[k]), loaded(other.at[k])));
        ((Pack<WIDE>*)out)[i] = pack;
    }
    for (I i = packs * WIDE + first; i < size; i += step)
        out[i] = stored<T>(result(loaded(left[i]), loaded(right[i])));
}
"""

#: from T to S
CAST = """
extern "C" __global__ void cast(const T* x, S* y, I size, I packs) {
    const I first = blockIdx.x * (I)blockDim.x + threadIdx.x, step = gridDim.x * (I)blockDim.x;
    for (I i = first; i < packs; i += step) {
        const Pack<8> pack = ((const Pack<8>*)x)[i];
        Pack<8, S> out;
        for (int k = 0; k < 8; ++k) out.at[k] = stored<S>(loaded(pack.at[k]));
        ((Pack<8, S>*)y)[i] = out;
    }
    for (I i = packs * 8 + first; i < size; i += step) y[i] = stored<S>(loaded(x[i]));
}
"""


@cache
def kernels(name: str) -> str:
    """Text of ``forward`` and ``backward`` of a function; T is the storage type."""
    function = FUNCTIONS[name]
    forward = ONE.replace("FORWARD", function.forward)
    return HELPERS + forward + _of_two("backward", "g", function.saves, function.backward)


def _of_two(name: str, left: str, right: str, expression: str) -> str:
    text = TWO.replace("NAME", name).replace("LEFT", left).replace("RIGHT", right)
    return text.replace("EXPRESSION", expression)


#: text of ``add``
ADD = _of_two("add", "x", "y", "x + y")
