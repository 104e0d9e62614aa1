"""Optimisers, for all parameters in one launch, and the loss scale: nothing waits for the host.

A table on the GPU has a row for each parameter, and a list of chunks, a block of threads each. The
order of operations is that of ``optim.rules``, and the bits are NumPy's. G is the storage type of
gradients that are not float, and of the copies of weights.
"""

from __future__ import annotations

from functools import cache

#: values a block
CHUNK = 2**14

TABLE = """
struct Tensor {
    const void* gradient;
    float *weight, *first, *second;
    G* copy;
    I size, plain;  // plain: the gradient is float

    __device__ float gradient_at(I i) const {
        return plain ? ((const float*)gradient)[i] : loaded(((const G*)gradient)[i]);
    }
    __device__ void move(I i, float less) const {
        weight[i] -= less;
        if (copy) copy[i] = stored<G>(weight[i]);
    }
};

// The loop over a block's chunk, of i in t.
#define CHUNKWISE \\
    const Tensor t = tensors[chunks[2 * blockIdx.x]]; \\
    const I start = chunks[2 * blockIdx.x + 1]; \\
    const I end = start + CHUNK < t.size ? start + CHUNK : t.size; \\
    for (I i = start + threadIdx.x; i < end; i += blockDim.x)
"""

STEPS = """
extern "C" __global__ void find(const Tensor* tensors, const I* chunks, int* found) {
    bool infinite = false;
    CHUNKWISE infinite |= !(fabsf(t.gradient_at(i)) < INFINITE);
    if (infinite) *found = 1;  // by whom is all the same
}

// Counts the step, unless it is skipped, and corrects for moments that started from zero.
extern "C" __global__ void count(
    int* step, float* corrections, const int* found, double lr, double beta1, double beta2) {
    if (found && *found) return;
    ++*step;
    corrections[0] = sqrt(1 - pow(beta2, (double)*step));
    corrections[1] = lr / (1 - pow(beta1, (double)*step));
}

// decay: of the gradient; shrinkage: of the weight itself, times lr
extern "C" __global__ void adam(
    const Tensor* tensors, const I* chunks, const float* inverse, const int* found,
    const float* corrections, float beta1, float rest1, float beta2, float rest2, float eps,
    float decay, float shrinkage) {
    if (found && *found) return;
    const float factor = inverse ? *inverse : 1, root = corrections[0], rate = corrections[1];
    CHUNKWISE {
        float g = t.gradient_at(i) * factor;
        if (decay) g = decay * t.weight[i] + g;
        const float m = t.first[i] = t.first[i] * beta1 + rest1 * g;
        const float v = t.second[i] = t.second[i] * beta2 + g * g * rest2;
        float direction = m / (sqrtf(v) / root + eps) * rate;
        if (shrinkage) direction += shrinkage * t.weight[i];
        t.move(i, direction);
    }
}

// momentum: 0 for none, and no first moment; it starts as the first step's gradient
extern "C" __global__ void sgd(
    const Tensor* tensors, const I* chunks, const float* inverse, const int* found,
    const int* step, float lr, float momentum, float decay, bool nesterov) {
    if (found && *found) return;
    const float factor = inverse ? *inverse : 1;
    const bool fresh = *step == 1;
    CHUNKWISE {
        float g = t.gradient_at(i) * factor;
        if (decay) g = decay * t.weight[i] + g;
        float direction = g;
        if (momentum) direction = t.first[i] = fresh ? g : t.first[i] * momentum + g;
        if (nesterov) direction = momentum * direction + g;
        t.move(i, lr * direction);
    }
}
"""

#: ``scaling.rules.next_scale``; limits are 0 and infinity for none
SCALE = """
extern "C" __global__ void move_scale(
    float* scale, float* inverse, int* streak, int* borne, const int* found,
    double growth, double backoff, int interval, int hysteresis, double least, double largest) {
    double factor = 1;
    if (*found) {
        *streak = 0;
        if (*borne + 1 < hysteresis) ++*borne;
        else factor = backoff;
    } else if (++*streak == interval) {
        *streak = *borne = 0;
        factor = growth;
    }
    const float moved = (float)fmax(fmin(*scale * factor, largest), least);
    if (factor != 1 && moved < INFINITE) *scale = moved;  // one that stays may be beyond the limits
    *inverse = (float)(1.0 / *scale);
}
"""


@cache
def kernels() -> str:
    """Text of ``find``, ``count``, ``adam``, ``sgd`` and ``move_scale``."""
    return f"constexpr I CHUNK = {CHUNK};\n" + TABLE + STEPS + SCALE
