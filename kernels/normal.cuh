// Normally distributed numbers (Box & Muller, 1958), bit for bit those of the CPU: normal.rs and math.rs of the CPU
// backend line by line, with every operation rounded once. (This is why --fmad=false matters here.)
#pragma once
#include "philox.cuh"

template <typename R>
struct BoxMuller;

template <>
struct BoxMuller<f32> {
    static constexpr int pairs = 2;
    static __device__ f32 first(const Block& b, int pair) {
        return (f32)(int32_t)((b.words[2 * pair] >> 8) + 1) * (1.0f / (1 << 24));
    }
    static __device__ f32 second(const Block& b, int pair) {
        return (f32)(int32_t)(b.words[2 * pair + 1] >> 8) * (1.0f / (1 << 24));
    }
    // The logarithm of a number in (0, 1] that is not subnormal.
    static __device__ f32 log(f32 x) {
        uint32_t bits = bit_cast<uint32_t>(x) - 0x3F3504F3u;
        f32 e = (f32)((int32_t)bits >> 23);
        f32 f = bit_cast<f32>((bits & 0x007FFFFFu) + 0x3F3504F3u) - 1.0f;
        f32 p = 0.067466386f;
        p = p * f + -0.11675651f;
        p = p * f + 0.11888163f;
        p = p * f + -0.12405589f;
        p = p * f + 0.14219552f;
        p = p * f + -0.16667996f;
        p = p * f + 0.20002119f;
        p = p * f + -0.2500001f;
        p = p * f + 0.33333313f;
        f32 square = f * f;
        f32 tail = f * square * p + e * -2.1219444e-4f - 0.5f * square;
        return (f + tail) + e * (355.0f / 512.0f);
    }
    // Sine and cosine of an angle in [-pi / 4, pi / 4].
    static __device__ void sin_cos(f32 x, f32& sin, f32& cos) {
        f32 z = x * x;
        f32 s = ((z * (1.0f / 362880.0f) - 1.0f / 5040.0f) * z + 1.0f / 120.0f) * z - 1.0f / 6.0f;
        f32 c = ((z * (1.0f / 40320.0f) - 1.0f / 720.0f) * z + 1.0f / 24.0f) * z - 0.5f;
        sin = x + x * z * s;
        cos = 1.0f + z * c;
    }
    static __device__ f32 sqrt(f32 x) { return sqrtf(x); }
    static __device__ f32 floor(f32 x) { return floorf(x); }
};

template <>
struct BoxMuller<f64> {
    static constexpr int pairs = 1;
    static __device__ f64 first(const Block& b, int) {
        return (f64)(int64_t)((wide_word(b, 0) >> 11) + 1) * (1.0 / (f64)(1ull << 53));
    }
    static __device__ f64 second(const Block& b, int) {
        return (f64)(int64_t)(wide_word(b, 1) >> 11) * (1.0 / (f64)(1ull << 53));
    }
    static __device__ f64 log(f64 x) {
        uint64_t bits = bit_cast<uint64_t>(x) - 0x3FE6A09E667F3BCDull;
        f64 e = (f64)(int32_t)((int64_t)bits >> 52);
        f64 m = bit_cast<f64>((bits & 0x000FFFFFFFFFFFFFull) + 0x3FE6A09E667F3BCDull);
        f64 f = m - 1.0;
        f64 s = f / (2.0 + f);
        f64 z = s * s;
        f64 p = 1.0 / 23.0;
#pragma unroll
        for (int k = 21; k >= 3; k -= 2) p = p * z + 1.0 / (f64)k;
        return e * 0.6931471803691238 + (2.0 * s + (2.0 * s * (z * p) + e * 1.9082149292705877e-10));
    }
    static __device__ void sin_cos(f64 x, f64& sin, f64& cos) {
        f64 z = x * x, s = 1.0, c = 1.0;
#pragma unroll
        for (int k = 17; k >= 3; k -= 2) {
            s = 1.0 - z * (1.0 / ((f64)k * ((f64)k - 1.0))) * s;
            c = 1.0 - z * (1.0 / (((f64)k - 1.0) * ((f64)k - 2.0))) * c;
        }
        sin = x * s;
        cos = c;
    }
    static __device__ f64 sqrt(f64 x) { return ::sqrt(x); }
    static __device__ f64 floor(f64 x) { return ::floor(x); }
};

// Two standard normal numbers from a pair of draws.
template <typename R>
__device__ inline void normal_pair(const Block& block, int pair, R (&out)[2]) {
    typedef BoxMuller<R> B;
    R radius = B::sqrt(R(-2) * B::log(B::first(block, pair)));
    R b = B::second(block, pair);
    // The nearest quarter turn, and the exact remainder of at most an eighth of a turn either way.
    R quarter = B::floor(b * R(4) + R(0.5));
    R sin, cos;
    B::sin_cos((b - quarter * R(0.25)) * R(6.283185307179586), sin, cos);
    bool odd = quarter == R(1) || quarter == R(3);
    R c = odd ? R(0) - sin : cos, s = odd ? cos : sin;
    bool back = quarter == R(2) || quarter == R(3);
    out[0] = radius * (back ? R(0) - c : c);
    out[1] = radius * (back ? R(0) - s : s);
}
