// Half precision as a storage type: conversions, rounded to nearest even, and operators, which round the f32 result
// (for a single operation this is correctly rounded).
#pragma once
#include "kiln_sim.h"

namespace sim {

inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000u) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ffu;
    if (exponent == 31) return bits<float>(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
    if (exponent) return bits<float>(sign | (exponent + 112) << 23 | mantissa << 13);
    const float magnitude = float(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
}

// From f64, which represents every f32: one rounding for any source.
inline uint16_t half_from_double(double x) {
    const uint64_t raw = bits<uint64_t>(x);
    const uint16_t sign = uint16_t(raw >> 48 & 0x8000u);
    if (x != x) return 0x7fff;
    const double magnitude = std::fabs(x);
    if (magnitude >= 65520.0) return sign | 0x7c00;
    // The spacing of half-precision numbers at this magnitude; adding and subtracting 2^52 times it rounds to a
    // multiple of it.
    const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
    const double step = std::ldexp(1.0, exponent - 10);
    const uint32_t steps = uint32_t(std::nearbyint(magnitude / step));
    // A carry out of the mantissa increments the exponent, as it should.
    return uint16_t(sign | (magnitude < 0x1p-14 ? steps : (uint32_t(exponent + 15) << 10) + (steps - 1024)));
}

}  // namespace sim

struct alignas(2) __half {
    uint16_t raw;
    __half() = default;
    __half(float x) : raw(sim::half_from_double(x)) {}
    __half(double x) : raw(sim::half_from_double(x)) {}
    __half(int x) : raw(sim::half_from_double(x)) {}
    operator float() const { return sim::half_to_float(raw); }
};
using half = __half;

struct alignas(4) __half2 {
    __half x, y;
};
using half2 = __half2;

inline float __half2float(__half h) { return sim::half_to_float(h.raw); }
inline __half __float2half(float x) { return {x}; }
inline __half __float2half_rn(float x) { return {x}; }
inline __half __double2half(double x) { return {x}; }
inline unsigned short __half_as_ushort(__half h) { return h.raw; }
inline short __half_as_short(__half h) { return short(h.raw); }
inline __half __ushort_as_half(unsigned short x) { return sim::bits<__half>(x); }
inline __half __short_as_half(short x) { return sim::bits<__half>(x); }
inline float __low2float(__half2 h) { return h.x; }
inline float __high2float(__half2 h) { return h.y; }
inline float2 __half22float2(__half2 h) { return {h.x, h.y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }

#define KILN_SIM_HALF(op)                                                                    \
    inline __half operator op(__half a, __half b) { return {float(a) op float(b)}; }         \
    inline __half &operator op##=(__half &a, __half b) { return a = a op b; }
KILN_SIM_HALF(+)
KILN_SIM_HALF(-)
KILN_SIM_HALF(*)
KILN_SIM_HALF(/)
#undef KILN_SIM_HALF
inline __half operator-(__half a) { return __ushort_as_half(a.raw ^ 0x8000u); }
#define KILN_SIM_HALF(op) \
    inline bool operator op(__half a, __half b) { return float(a) op float(b); }
KILN_SIM_HALF(==)
KILN_SIM_HALF(!=)
KILN_SIM_HALF(<)
KILN_SIM_HALF(<=)
KILN_SIM_HALF(>)
KILN_SIM_HALF(>=)
#undef KILN_SIM_HALF
