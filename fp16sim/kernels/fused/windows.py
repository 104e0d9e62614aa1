"""Windows of images (N, C, H, W) in T as columns (N, C, rows, columns, oh, ow), and back; maxima.

The channels of a group follow one another, so that groups are a matter of shape alone.
"""

WINDOWS = """
struct Axis { int size, kernel, output, stride, padding, dilation; };
#define AXIS(a) I a##0, I a##1, I a##2, I a##3, I a##4, I a##5
#define MADE(a) const Axis a = {(int)a##0, (int)a##1, (int)a##2, (int)a##3, (int)a##4, (int)a##5};

// A plane for each image, channel and tap; a thread has N windows in a row.
extern "C" __global__ void im2col(const T* x, T* columns, AXIS(h), AXIS(w)) {
    MADE(h) MADE(w)
    PLANE(plane, pack, h.output * w.output / N)
    const int tap = plane % (h.kernel * w.kernel), i = tap / w.kernel, j = tap % w.kernel;
    const int window = pack * N;
    const int top = i * h.dilation - h.padding, left = j * w.dilation - w.padding;
    int row = window / w.output, column = window % w.output;
    x += plane / (h.kernel * w.kernel) * h.size * w.size;
    columns += plane * h.output * w.output + window;
    Pack<N> values;
    for (int k = 0; k < N; ++k) {
        const int y = row * h.stride + top, z = column * w.stride + left;
        const bool inside = y >= 0 && y < h.size && z >= 0 && z < w.size;
        values.at[k] = inside ? x[(I)y * w.size + z] : stored<T>(0);
        if (++column == w.output) column = 0, ++row;
    }
    *(Pack<N>*)columns = values;
}

// Where tap k of the kernel meets a place: in which output, or -1.
__device__ __forceinline__ int met(int place, int k, const Axis& a) {
    const int start = place + a.padding - k * a.dilation, output = start / a.stride;
    return start >= 0 && output * a.stride == start && output < a.output ? output : -1;
}

// The place of tap (i, j) of a window in the image, or -1.
__device__ __forceinline__ int place(int window, int i, int j, const Axis& h, const Axis& w) {
    const int row = window / w.output * h.stride + i * h.dilation - h.padding;
    const int column = window % w.output * w.stride + j * w.dilation - w.padding;
    const bool inside = row >= 0 && row < h.size && column >= 0 && column < w.size;
    return inside ? row * w.size + column : -1;
}

// Planes are images' channels, and places windows. A NaN is more than all numbers.
extern "C" __global__ void max_pool(const T* x, T* y, AXIS(h), AXIS(w)) {
    MADE(h) MADE(w)
    PLANE(plane, window, h.output * w.output)
    x += plane * h.size * w.size;
    float most = -INFINITE;
    for (int i = 0; i < h.kernel; ++i)
        for (int j = 0; j < w.kernel; ++j) {
            const int at = place(window, i, j, h, w);
            if (at < 0) continue;
            const float value = loaded(x[at]);
            if (value > most || value != value) most = value;
        }
    y[plane * h.output * w.output + window] = stored<T>(most);
}

// Places are pixels: each takes the gradients of the windows whose first largest value it is, in
// the order of the taps by which they see it.
extern "C" __global__ void max_pool_backward(
    const T* g, const T* x, const T* y, T* dx, AXIS(h), AXIS(w)) {
    MADE(h) MADE(w)
    PLANE(plane, pixel, h.size * w.size)
    x += plane * h.size * w.size;
    g += plane * h.output * w.output, y += plane * h.output * w.output;
    const float own = loaded(x[pixel]);
    float total = 0;
    for (int tap = 0; tap < h.kernel * w.kernel; ++tap) {
        const int row = met(pixel / w.size, tap / w.kernel, h);
        const int column = met(pixel % w.size, tap % w.kernel, w);
        if (row < 0 || column < 0) continue;
        const int window = row * w.output + column;
        const float most = loaded(y[window]);
        bool first = own == most || own != own;
        for (int before = 0; first && before < tap; ++before) {
            const int at = place(window, before / w.kernel, before % w.kernel, h, w);
            const float value = at < 0 ? 0 : loaded(x[at]);
            first = at < 0 || (value != most && value == value);
        }
        if (first) total += loaded(g[window]);
    }
    dx[plane * h.size * w.size + pixel] = stored<T>(total);
}

// Planes are images' channels, and places pixels, which add up their taps in order.
extern "C" __global__ void col2im(
    const float* columns, const T* bias, T* x, I channels, AXIS(h), AXIS(w)) {
    MADE(h) MADE(w)
    PLANE(image, pixel, h.size * w.size)
    columns += image * h.kernel * w.kernel * h.output * w.output;
    float total = 0;
    for (int i = 0; i < h.kernel; ++i) {
        const int row = met(pixel / w.size, i, h);
        if (row < 0) continue;
        for (int j = 0; j < w.kernel; ++j) {
            const int column = met(pixel % w.size, j, w);
            if (column < 0) continue;
            const I plane = i * w.kernel + j;
            total += columns[(plane * h.output + row) * w.output + column];
        }
    }
    if (bias) total += loaded(bias[image % channels]);
    x[image * h.size * w.size + pixel] = stored<T>(total);
}
"""
