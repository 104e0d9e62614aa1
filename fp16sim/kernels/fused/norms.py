"""Layer, group, RMS and batch normalisation: values of T, weight and bias of W.

The first three are of rows of n values. The values of a row belong to its parameters in runs of
``inner``, and the rows take turns in ``groups``: layer norm has one group of runs of one; group
norm has runs of a channel's pixels. CENTRED is 1, or 0 for RMS norm, which subtracts no mean. Of
pixels N are moved at once; ``inner`` is a multiple of it.
"""

from __future__ import annotations

from functools import cache

NORM = """
extern "C" __global__ void forward(
    const T* x, const W* weight, const W* bias, T* y, float* means, float* scales,
    I rows, I n, I groups, I inner, float eps) {
    ROW(rows)
    x += row * n, y += row * n;
    float mean = 0, square = 0;
    if (CENTRED) {
        EACH(i, n) mean += loaded(x[i]);
        mean = sum(mean) / n;
    }
    EACH(i, n) {
        const float difference = loaded(x[i]) - mean;
        square += difference * difference;
    }
    const float scale = 1 / sqrtf(sum(square) / n + eps);
    const I start = row % groups * (n / inner);
    EACH(i, n) {
        const I k = start + (inner == 1 ? i : (unsigned)i / (unsigned)inner);
        float result = (loaded(x[i]) - mean) * scale;
        if (weight) result *= loaded(weight[k]);
        if (bias) result += loaded(bias[k]);
        y[i] = stored<T>(result);
    }
    if (threadIdx.x) return;
    if (CENTRED) means[row] = mean;
    scales[row] = scale;
}

extern "C" __global__ void backward(
    const T* g, const T* x, const W* weight, const float* means, const float* scales, T* dx,
    I rows, I n, I groups, I inner) {
    ROW(rows)
    g += row * n, x += row * n, dx += row * n;
    const float mean = CENTRED ? means[row] : 0, scale = scales[row];
    const I start = row % groups * (n / inner);
    float along = 0, level = 0;  // of the gradient: its part along the row, and its mean
    EACH(i, n) {
        const I k = start + (inner == 1 ? i : (unsigned)i / (unsigned)inner);
        const float h = weight ? loaded(g[i]) * loaded(weight[k]) : loaded(g[i]);
        along += h * ((loaded(x[i]) - mean) * scale);
        level += h;
    }
    along = -(sum(along) / n);
    level = CENTRED ? sum(level) / n : 0;
    EACH(i, n) {
        const I k = start + (inner == 1 ? i : (unsigned)i / (unsigned)inner);
        const float h = weight ? loaded(g[i]) * loaded(weight[k]) : loaded(g[i]);
        float slope = (loaded(x[i]) - mean) * scale * along;
        slope += h;
        if (CENTRED) slope -= level;
        dx[i] = stored<T>(slope * scale);
    }
}
"""

#: Gradients of weight and bias in two stages, both in a fixed order: sums over parts of the images
#: (``columns`` for runs of one, ``channels`` for longer ones), and then over the parts. From
#: an image's statistics to the next one's it is ``step``: groups, or 0 if images share them (batch
#: norm).
PARAMETERS = """
// A block (32, 8) has 32 columns, and each of its rows of threads every 8th image.
extern "C" __global__ void columns(
    const T* g, const T* x, const float* means, const float* scales, float* of_weight,
    float* of_bias, I images, I part, I width, I groups, I inner, I step) {
    __shared__ float sums[2][8][32];
    const I column = blockIdx.x * (I)32 + threadIdx.x, first = blockIdx.y * part;
    const I last = first + part < images ? first + part : images;
    float weight = 0, bias = 0;
    if (column < width) {
        const I group = column / (width / groups);
        for (I image = first + threadIdx.y; image < last; image += 8) {
            const I at = image * width + column, row = image * step + group;
            const float mean = CENTRED ? means[row] : 0, slope = loaded(g[at]);
            weight += slope * ((loaded(x[at]) - mean) * scales[row]);
            bias += slope;
        }
    }
    sums[0][threadIdx.y][threadIdx.x] = weight, sums[1][threadIdx.y][threadIdx.x] = bias;
    __syncthreads();
    if (threadIdx.y || column >= width) return;
    for (int k = 1; k < 8; ++k) weight += sums[0][k][threadIdx.x], bias += sums[1][k][threadIdx.x];
    of_weight[blockIdx.y * width + column] = weight, of_bias[blockIdx.y * width + column] = bias;
}

// A block has one channel of one part of the images, and each of its threads N pixels at a time.
extern "C" __global__ void channels(
    const T* g, const T* x, const float* means, const float* scales, float* of_weight,
    float* of_bias, I images, I part, I width, I groups, I inner, I step) {
    const I channel = blockIdx.x, group = channel / (width / groups), first = blockIdx.y * part;
    const I last = first + part < images ? first + part : images;
    const unsigned packs = inner / N;
    float weight = 0, bias = 0;
    EACH(i, (last - first) * packs) {
        const I image = first + (unsigned)i / packs;
        const I at = (image * width + channel) * inner + (unsigned)i % packs * N;
        const I row = image * step + group;
        const float mean = CENTRED ? means[row] : 0, scale = scales[row];
        const Pack<N> slopes = *(const Pack<N>*)(g + at), values = *(const Pack<N>*)(x + at);
        for (int k = 0; k < N; ++k) {
            const float slope = loaded(slopes.at[k]);
            weight += slope * ((loaded(values.at[k]) - mean) * scale);
            bias += slope;
        }
    }
    weight = sum(weight), bias = sum(bias);
    if (threadIdx.x) return;
    of_weight[blockIdx.y * width + channel] = weight, of_bias[blockIdx.y * width + channel] = bias;
}

"""

#: Batch norm of (images, width, inner) by channel: statistics in two stages, too, and then
#: a plane of pixels for each block. In eval mode the statistics are given, and no gradients
#: go through them: ``along`` is null.
BATCH = """
// Of x; with means, of (x - mean)^2.
extern "C" __global__ void totals(
    const T* x, const float* means, float* sums, I images, I part, I width, I inner) {
    const I channel = blockIdx.x, first = blockIdx.y * part;
    const I last = first + part < images ? first + part : images;
    const unsigned packs = inner / N;
    const float mean = means ? means[channel] : 0;
    float total = 0;
    EACH(i, (last - first) * packs) {
        const I image = first + (unsigned)i / packs;
        const I at = (image * width + channel) * inner + (unsigned)i % packs * N;
        const Pack<N> values = *(const Pack<N>*)(x + at);
        for (int k = 0; k < N; ++k) {
            const float difference = loaded(values.at[k]) - mean;
            total += means ? difference * difference : difference;
        }
    }
    total = sum(total);
    if (!threadIdx.x) sums[blockIdx.y * width + channel] = total;
}


// Sums over parts of x to means, or of squares to variances, and to what is multiplied by.
extern "C" __global__ void settle(
    const float* sums, float* moments, float* scales, I parts, I width, float count, float eps) {
    const I channel = blockIdx.x * (I)blockDim.x + threadIdx.x;
    if (channel >= width) return;
    float total = 0;
    for (I part = 0; part < parts; ++part) total += sums[part * width + channel];
    moments[channel] = total / count;
    scales[channel] = 1 / sqrtf(total / count + eps);
}

// N pixels of a channel of an image, from x[at] on
#define OF_CHANNEL \\
    PLANE(plane, pack_of_plane, inner / N) \\
    const I channel = plane % width, at = plane * inner + pack_of_plane * (I)N;

extern "C" __global__ void apply(
    const T* x, const W* weight, const W* bias, const float* means, const float* scales, T* y,
    I width, I inner) {
    OF_CHANNEL
    const float mean = means[channel], scale = scales[channel];
    Pack<N> pack = *(const Pack<N>*)(x + at);
    for (int k = 0; k < N; ++k) {
        float result = (loaded(pack.at[k]) - mean) * scale;
        if (weight) result *= loaded(weight[channel]);
        if (bias) result += loaded(bias[channel]);
        pack.at[k] = stored<T>(result);
    }
    *(Pack<N>*)(y + at) = pack;
}


extern "C" __global__ void apply_backward(
    const T* g, const T* x, const W* weight, const float* means, const float* scales,
    const float* along, const float* level, T* dx, I width, I inner, float count) {
    OF_CHANNEL
    const float scale = scales[channel], factor = weight ? loaded(weight[channel]) : 1;
    Pack<N> slopes = *(const Pack<N>*)(g + at), values = slopes;
    if (along) values = *(const Pack<N>*)(x + at);
    for (int k = 0; k < N; ++k) {
        float slope = loaded(slopes.at[k]) * factor;
        if (along) {
            const float normal = (loaded(values.at[k]) - means[channel]) * scale;
            slope = normal * -(along[channel] * factor / count) + slope;
            slope -= level[channel] * factor / count;
        }
        slopes.at[k] = stored<T>(slope * scale);
    }
    *(Pack<N>*)(dx + at) = slopes;
}

"""


@cache
def kernels(centred: bool) -> str:
    """Text of ``forward``, ``backward``, ``columns`` and ``channels``."""
    return (NORM + PARAMETERS).replace("CENTRED", str(int(centred)))
