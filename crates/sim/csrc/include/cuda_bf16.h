// bfloat16 as a storage type. It has no operators here, because it has none on the lowest architecture that the kernels
// are built for either.
#pragma once
#include "kiln_sim.h"

namespace sim {

inline uint16_t bfloat_from_float(float x) {
    const uint32_t raw = bits<uint32_t>(x);
    if (x != x) return 0x7fff;
    return uint16_t((raw + 0x7fffu + (raw >> 16 & 1)) >> 16);
}

// Rounded to f32 toward odd first, so that only the second rounding counts.
inline uint16_t bfloat_from_double(double x) {
    float f = float(x);
    if (f == f && double(f) != x) {
        uint32_t raw = bits<uint32_t>(f);
        if (std::fabs(double(f)) > std::fabs(x)) raw -= 1;
        f = bits<float>(raw | 1);
    }
    return bfloat_from_float(f);
}

}  // namespace sim

struct alignas(2) __nv_bfloat16 {
    uint16_t raw;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) : raw(sim::bfloat_from_float(x)) {}
    __nv_bfloat16(double x) : raw(sim::bfloat_from_double(x)) {}
    operator float() const { return sim::bits<float>(uint32_t(raw) << 16); }
};
using nv_bfloat16 = __nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
using nv_bfloat162 = __nv_bfloat162;

inline float __bfloat162float(__nv_bfloat16 b) { return b; }
inline __nv_bfloat16 __float2bfloat16(float x) { return {x}; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {x}; }
inline __nv_bfloat16 __double2bfloat16(double x) { return {x}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.raw; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return sim::bits<__nv_bfloat16>(x); }
