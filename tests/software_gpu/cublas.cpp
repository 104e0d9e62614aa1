// In the place of libcublas.so: products of matrices on the host. What CuPy is linked with and
// nobody calls is generated, and fails with its name (see build.py).
#include <memory>
#include <vector>

#include "gpu.h"

// CUDA's and cuBLAS's numbers for what is used here.
enum Type { FP32 = 0, FP64 = 1, FP16 = 2, BF16 = 14 };
enum Compute { COMPUTE_16F = 64, COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_32F_TF32 = 77 };
enum Status { DONE = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

struct Handle {
    void* stream = nullptr;
    int math_mode = 0;
};

static double read(const u8* from, s64 index, int type) {
    switch (type) {
    case FP16: return (double)((const _Float16*)from)[index];
    case FP32: return ((const float*)from)[index];
    case FP64: return ((const double*)from)[index];
    case BF16: {
        const u32 word = (u32)((const u16*)from)[index] << 16;
        float value;
        memcpy(&value, &word, sizeof value);
        return value;
    }
    default: gpu_failed("cuBLAS got a type that is not modelled:", type);
    }
}
static void write(u8* to, s64 index, int type, double value) {
    switch (type) {
    case FP16: ((_Float16*)to)[index] = (_Float16)(float)value; break;
    case FP32: ((float*)to)[index] = (float)value; break;
    case FP64: ((double*)to)[index] = value; break;
    case BF16: {
        const float rounded = (float)value;
        u32 word;
        memcpy(&word, &rounded, sizeof word);
        word = value != value ? 0x7FFF0000 : word + 0x7FFF + (word >> 16 & 1);
        ((u16*)to)[index] = word >> 16;
        break;
    }
    default: gpu_failed("cuBLAS got a type that is not modelled:", type);
    }
}
static float as_tf32(float x) {
    u32 word;
    memcpy(&word, &x, sizeof word);
    if ((word & 0x7F800000) == 0x7F800000) return x;
    word = (word + 0xFFF + (word >> 13 & 1)) & ~0x1FFFu;
    memcpy(&x, &word, sizeof x);
    return x;
}

struct Matrix {
    const void* address;
    int type;
    s64 leading, stride;
    bool turned;

    u8* host(s64 number) const {
        if (!on_device(address)) gpu_failed("cuBLAS got a host address:", (u64)address);
        const s64 size = type == FP64 ? 8 : type == FP32 ? 4 : 2;
        return host_address(address) + number * stride * size;
    }
    // In the order in which products read it: outer by inner.
    template <class T> std::vector<T> rows(s64 number, s64 outer, s64 inner, bool tf32) const {
        const u8* from = host(number);
        std::vector<T> found(outer * inner);
        for (s64 i = 0; i < outer; ++i)
            for (s64 j = 0; j < inner; ++j) {
                const T value = read(from, turned ? j + i * leading : i + j * leading, type);
                found[i * inner + j] = tf32 ? as_tf32(value) : value;
            }
        return found;
    }
};

// Eight sums side by side: an order of its own, as cuBLAS's is, and fast.
template <class T> static T product_of(const T* x, const T* y, s64 count) {
    T parts[8] = {}, sum = 0;
    for (s64 i = 0; i + 8 <= count; i += 8)
        for (int j = 0; j < 8; ++j) parts[j] += x[i + j] * y[i + j];
    for (s64 i = count / 8 * 8; i < count; ++i) parts[i % 8] += x[i] * y[i];
    for (T part : parts) sum += part;
    return sum;
}

struct Product {
    s64 m, n, k;
    double alpha, beta;
    Matrix a, b, c;
    s64 count;
    bool tf32;

    template <class T> void run() const {
        for (s64 number = 0; number < count; ++number) {
            const auto rows = a.rows<T>(number, m, k, tf32);
            const auto columns = b.rows<T>(number, n, k, tf32);
            u8* to = c.host(number);
            for (s64 j = 0; j < n; ++j)
                for (s64 i = 0; i < m; ++i) {
                    T value = (T)alpha * product_of(&rows[i * k], &columns[j * k], k);
                    const s64 at = i + j * c.leading;
                    if (beta) value += (T)beta * (T)read(to, at, c.type);  // else it is not read
                    write(to, at, c.type, value);
                }
        }
    }
};

static double scalar(const void* address, int compute) {
    const int type = compute == COMPUTE_64F ? FP64 : compute == COMPUTE_16F ? FP16 : FP32;
    if (on_device(address)) gpu_failed("cuBLAS got a device address of a scalar:", (u64)address);
    return read((const u8*)address, 0, type);
}

EXPORT int cublasGemmStridedBatchedEx(Handle* handle, int turn_a, int turn_b, int m, int n, int k,
                                      const void* alpha, const void* a, int type_a, int leading_a,
                                      s64 stride_a, const void* b, int type_b, int leading_b,
                                      s64 stride_b, const void* beta, void* c, int type_c,
                                      int leading_c, s64 stride_c, int count, int compute, int) {
    if (m < 0 || n < 0 || k < 0 || leading_a < (turn_a ? k : m) || leading_b < (turn_b ? n : k)
        || leading_c < m)
        return INVALID_VALUE;
    if (type_a != type_b || (compute == COMPUTE_64F) != (type_a == FP64)) return NOT_SUPPORTED;
    const Product product{
        m, n, k, scalar(alpha, compute), scalar(beta, compute),
        {a, type_a, leading_a, stride_a, turn_a != 0},
        {b, type_b, leading_b, stride_b, turn_b == 0},  // its columns are what is read
        {c, type_c, leading_c, stride_c, false},
        count, compute == COMPUTE_32F_TF32,
    };
    const int error = gpu_enqueue(handle->stream, [=] {
        compute == COMPUTE_64F ? product.run<double>() : product.run<float>();
    });
    return error ? EXECUTION_FAILED : DONE;
}
EXPORT int cublasGemmEx(Handle* handle, int turn_a, int turn_b, int m, int n, int k,
                        const void* alpha, const void* a, int type_a, int leading_a, const void* b,
                        int type_b, int leading_b, const void* beta, void* c, int type_c,
                        int leading_c, int compute, int algorithm) {
    return cublasGemmStridedBatchedEx(handle, turn_a, turn_b, m, n, k, alpha, a, type_a, leading_a,
                                      0, b, type_b, leading_b, 0, beta, c, type_c, leading_c, 0, 1,
                                      compute, algorithm);
}

EXPORT int cublasCreate_v2(Handle** handle) { return *handle = new Handle, DONE; }
EXPORT int cublasDestroy_v2(Handle* handle) { return delete handle, DONE; }
EXPORT int cublasGetVersion_v2(Handle*, int* version) { return *version = 130000, DONE; }
EXPORT int cublasSetStream_v2(Handle* handle, void* to) { return handle->stream = to, DONE; }
EXPORT int cublasSetMathMode(Handle* handle, int to) { return handle->math_mode = to, DONE; }
EXPORT int cublasGetMathMode(Handle* handle, int* to) { return *to = handle->math_mode, DONE; }
