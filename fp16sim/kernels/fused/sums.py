"""Sums over rows in two stages: of parts of the rows, and of these; always in the same order."""

from __future__ import annotations

#: of x (rows, width) in T
COLUMNS = """
// A block (32, 8) has 32 columns of a part, and each of its rows of threads every 8th row.
extern "C" __global__ void column_sums(const T* x, float* sums, I rows, I part, I width) {
    __shared__ float totals[8][32];
    const I column = blockIdx.x * (I)32 + threadIdx.x, first = blockIdx.y * part;
    const I last = first + part < rows ? first + part : rows;
    float total = 0;
    if (column < width)
        for (I row = first + threadIdx.y; row < last; row += 8)
            total += loaded(x[row * width + column]);
    totals[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || column >= width) return;
    for (int k = 1; k < 8; ++k) total += totals[k][threadIdx.x];
    sums[blockIdx.y * width + column] = total;
}
"""

FOLD = """
// The sums over the parts of (kinds, parts, width), as (kinds, width).
extern "C" __global__ void fold(const float* sums, float* out, I kinds, I parts, I width) {
    const I i = blockIdx.x * (I)blockDim.x + threadIdx.x;
    if (i >= kinds * width) return;
    sums += i / width * parts * width + i % width;
    float total = 0;
    for (I part = 0; part < parts; ++part) total += sums[part * width];
    out[i] = total;
}
"""


def parts_of(rows: int) -> tuple[int, int]:
    """Into how many parts rows are divided, and how many a part has: at least 64, if any."""
    part = max(64, -(-rows // 128))
    return -(-rows // part), part
