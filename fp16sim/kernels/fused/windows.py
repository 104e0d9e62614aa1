"""Windows of images (N, C, H, W) as columns (N, C, rows, columns, oh, ow), and back, in T.

The channels of a group follow one another, so that groups are a matter of shape alone.
"""

WINDOWS = """
struct Axis { int size, kernel, output, stride, padding, dilation; };
#define AXIS(a) I a##0, I a##1, I a##2, I a##3, I a##4, I a##5
#define MADE(a) const Axis a = {(int)a##0, (int)a##1, (int)a##2, (int)a##3, (int)a##4, (int)a##5};

// blockIdx.x: image, channel and tap; blockIdx.y's threads are windows
extern "C" __global__ void im2col(const T* x, T* columns, AXIS(h), AXIS(w)) {
    MADE(h) MADE(w)
    const int tap = blockIdx.x % (h.kernel * w.kernel), i = tap / w.kernel, j = tap % w.kernel;
    const int window = blockIdx.y * blockDim.x + threadIdx.x;
    if (window >= h.output * w.output) return;
    const int row = window / w.output * h.stride - h.padding + i * h.dilation;
    const int column = window % w.output * w.stride - w.padding + j * w.dilation;
    const bool inside = row >= 0 && row < h.size && column >= 0 && column < w.size;
    x += blockIdx.x / (h.kernel * w.kernel) * (I)h.size * w.size;
    columns += blockIdx.x * (I)h.output * w.output;
    columns[window] = inside ? x[(I)row * w.size + column] : stored<T>(0);
}

// Where tap k of the kernel meets a place: in which output, or -1.
__device__ __forceinline__ int met(int place, int k, const Axis& a) {
    const int start = place + a.padding - k * a.dilation, output = start / a.stride;
    return start >= 0 && output * a.stride == start && output < a.output ? output : -1;
}

// blockIdx.x: image and channel; blockIdx.y's threads are pixels, which add up their taps in order
extern "C" __global__ void col2im(const T* columns, T* x, AXIS(h), AXIS(w)) {
    MADE(h) MADE(w)
    const int pixel = blockIdx.y * blockDim.x + threadIdx.x;
    if (pixel >= h.size * w.size) return;
    columns += blockIdx.x * (I)h.kernel * w.kernel * h.output * w.output;
    float total = 0;
    for (int i = 0; i < h.kernel; ++i) {
        const int row = met(pixel / w.size, i, h);
        if (row < 0) continue;
        for (int j = 0; j < w.kernel; ++j) {
            const int column = met(pixel % w.size, j, w);
            if (column < 0) continue;
            const I plane = i * w.kernel + j;
            total += loaded(columns[(plane * h.output + row) * w.output + column]);
        }
    }
    x[blockIdx.x * (I)h.size * w.size + pixel] = stored<T>(total);
}
"""
