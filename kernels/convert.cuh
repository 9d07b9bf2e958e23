// Conversion between element types, as Rust's `as` does it: floats to integers saturate, NaN becomes 0.
#pragma once
#include "common.cuh"

// Inexact values are rounded to the neighbor whose last bit is 1 (round to odd): rounding the result again, to half
// precision, then equals a single rounding (Boldo & Melquiond, "When double rounding is odd", 2005).
__device__ inline f32 round_to_odd(f64 x) {
    f32 nearest = (f32)x;
    f64 back = (f64)nearest;
    if (back == x || x != x) return nearest;
    uint32_t bits = bit_cast<uint32_t>(nearest);
    // First rounds towards zero: one step back if rounding increased the magnitude.
    if (fabs(back) > fabs(x)) bits -= 1;
    return bit_cast<f32>(bits | 1);
}

template <typename I, typename R>
__device__ inline I saturate(R x, R low, R high, I lowest, I highest) {
    if (x != x) return 0;
    if (x <= low) return lowest;
    if (x >= high) return highest;
    return (I)x;
}

// convert<T>(value): the value that, when stored as T, is the number converted to T. This overload is for integers.
template <typename T>
struct To {
    static constexpr T LOW = Bounds<T>::LOW;
    static constexpr T HIGH = Bounds<T>::HIGH;
    static __device__ T of(f32 x) { return saturate<T, f32>(x, (f32)LOW, (f32)HIGH, LOW, HIGH); }
    static __device__ T of(f64 x) { return saturate<T, f64>(x, (f64)LOW, (f64)HIGH, LOW, HIGH); }
    template <typename I>
    static __device__ T of(I x) {
        return (T)x;
    }
};

template <>
struct To<f32> {
    template <typename N>
    static __device__ f32 of(N x) {
        return (f32)x;
    }
};

template <>
struct To<f64> {
    template <typename N>
    static __device__ f64 of(N x) {
        return (f64)x;
    }
};

struct ToHalf {
    static __device__ f32 of(f32 x) { return x; }
    static __device__ f32 of(f64 x) { return round_to_odd(x); }
    // f32 represents integers of at most 16 bits exactly.
    template <typename I>
    static __device__ f32 of(I x) {
        return sizeof(I) <= 2 ? (f32)x : round_to_odd((f64)x);
    }
};
#define TO_HALF(name, T) \
    template <>          \
    struct To<T> : ToHalf {};
FOR_HALF(TO_HALF)
#undef TO_HALF

template <>
struct To<truth> {
    template <typename N>
    static __device__ u8 of(N x) {
        return x != N(0);
    }
};

template <typename T, typename N>
__device__ inline Compute<T> convert(N value) {
    return To<T>::of(value);
}
