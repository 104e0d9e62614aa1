// What translated kernels are made of: the instructions of PTX that C++ has no operator for.
// Registers hold bits; as<T>() reads them as a type, word() gives back the bits.
// <cmath> is left out: it would take longer to compile than most kernels.
#include "words.h"

using f32 = float;
using f64 = double;
using f16 = _Float16;

template <class To, class From> static To cast(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

struct bf16 {
    u16 bits;
    bf16() = default;
    explicit bf16(f32 x) {
        const u32 word = cast<u32>(x);
        bits = x != x ? 0x7FFF : (word + 0x7FFF + (word >> 16 & 1)) >> 16;
    }
    operator f32() const { return cast<f32>((u32)bits << 16); }
};

template <class T> static T as(u64 bits) { return (T)bits; }
template <> f32 as<f32>(u64 bits) { return cast<f32>((u32)bits); }
template <> f64 as<f64>(u64 bits) { return cast<f64>(bits); }
template <> f16 as<f16>(u64 bits) { return cast<f16>((u16)bits); }
template <> bf16 as<bf16>(u64 bits) { return cast<bf16>((u16)bits); }

template <class T> static T word(T x) { return x; }  // of integers: signed ones extend themselves
static u32 word(f32 x) { return cast<u32>(x); }
static u64 word(f64 x) { return cast<u64>(x); }
static u16 word(f16 x) { return cast<u16>(x); }
static u16 word(bf16 x) { return x.bits; }

// --- memory: checked addresses of so many bytes, aligned to their number

template <u32 size> static u64 aligned(u64 address) {
    if (address % size) gpu_failed("misaligned address", address);
    return address;
}
template <u32 size> static u8* in_global(u64 address) {
    if ((aligned<size>(address) & MARKS) != DEVICE) gpu_failed("illegal address", address);
    return (u8*)(address & ~MARKS);
}
template <u32 size> static u8* in_shared(u64 address) {
    if (aligned<size>(address) + size > gpu_shared_size)
        gpu_failed("address outside of shared memory", address);
    return gpu_shared + address;
}
template <u32 size> static u8* in_local(u64 address) { return (u8*)aligned<size>(address); }
template <class T> static T load(const u8* from) {
    T x;
    memcpy(&x, from, sizeof x);
    return x;
}
template <class T> static void store(u8* to, u64 bits) {
    const T x = (T)bits;
    memcpy(to, &x, sizeof x);
}

// --- integers

template <class T> static T quotient(T x, T y) {  // C++ leaves these cases open
    if (y == 0) return T(-1);
    return T(-1) < T(0) && y == T(-1) ? T(0 - (u64)x) : T(x / y);
}
template <class T> static T remainder(T x, T y) {
    if (y == 0) return x;
    return T(-1) < T(0) && y == T(-1) ? T(0) : T(x % y);
}
template <class T> static T shifted_left(T x, u32 by) {
    return by < 8 * sizeof(T) ? T((u64)x << by) : T(0);
}
template <class T> static T shifted_right(T x, u32 by) {  // of signed: copies of the sign
    return T(x >> (by < 8 * sizeof(T) ? by : 8 * sizeof(T) - 1) >> (by >= 8 * sizeof(T)));
}
template <class T> static T inserted(T bits, T into, u32 at, u32 length) {
    at &= 255, length &= 255;
    const T ones = length < 8 * sizeof(T) ? T((T(1) << length) - 1) : T(-1);
    const T mask = shifted_left(ones, at);
    return T((shifted_left(bits, at) & mask) | (into & ~mask));
}

// --- floating point

static f32 magnitude(f32 x) { return __builtin_fabsf(x); }
static f64 magnitude(f64 x) { return __builtin_fabs(x); }
static f32 with_sign(f32 x, f32 sign) { return __builtin_copysignf(x, sign); }
static f64 with_sign(f64 x, f64 sign) { return __builtin_copysign(x, sign); }
static f32 fused(f32 x, f32 y, f32 z) { return __builtin_fmaf(x, y, z); }
static f64 fused(f64 x, f64 y, f64 z) { return __builtin_fma(x, y, z); }
static f32 root(f32 x) { return __builtin_sqrtf(x); }
static f64 root(f64 x) { return __builtin_sqrt(x); }
static f32 power_of_two(f32 x) { return __builtin_exp2f(x); }
static f32 truncated(f32 x) { return __builtin_truncf(x); }
static f64 truncated(f64 x) { return __builtin_trunc(x); }
static f32 nearest(f32 x) { return __builtin_rintf(x); }
static f64 nearest(f64 x) { return __builtin_rint(x); }
static f32 lower(f32 x) { return __builtin_floorf(x); }
static f64 lower(f64 x) { return __builtin_floor(x); }
static f32 upper(f32 x) { return __builtin_ceilf(x); }
static f64 upper(f64 x) { return __builtin_ceil(x); }

// The number rather than a NaN, and -0 below +0.
template <class T> static T smaller(T x, T y) {
    if (x != x || y != y) return x != x ? y : x;
    return x < y || (x == y && __builtin_signbit(x)) ? x : y;
}
template <class T> static T larger(T x, T y) {
    if (x != x || y != y) return x != x ? y : x;
    return x > y || (x == y && !__builtin_signbit(x)) ? x : y;
}
template <class T> static bool unordered(T x, T y) { return x != x || y != y; }
static f32 flushed(f32 x) { return magnitude(x) < 0x1p-126f ? with_sign(0.f, x) : x; }
template <class T> static T saturated(T x) { return x > 0 ? (x < 1 ? x : T(1)) : T(0); }

// To an integer, NaN to 0, others to the nearest that there is; the fraction is gone already.
template <class T, class F> static T integer(F x) {
    constexpr bool is_signed = T(-1) < T(0);
    constexpr int digits = 8 * sizeof(T) - is_signed;
    constexpr T largest = T(~0ull >> (64 - digits));
    const F limit = F(1ull << (digits - 1)) * 2;
    if (x != x) return 0;
    if (x >= limit) return largest;
    return x < (is_signed ? -limit : F(0)) ? T(~largest) : T(x);
}

enum Direction { DOWN = 0x2000, UP = 0x4000, TO_ZERO = 0x6000 };  // bits of the host's MXCSR
template <class T> static void hide(T& x) { asm volatile("" : "+m"(x)); }
// Rounds in a direction; the numbers are hidden, or the compiler would compute before or after.
template <Direction direction, class F, class... T> static auto toward(F function, T... numbers) {
    const u32 before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr((before & ~0x6000u) | direction);
    (hide(numbers), ...);
    auto result = function(numbers...);
    hide(result);
    __builtin_ia32_ldmxcsr(before);
    return result;
}
