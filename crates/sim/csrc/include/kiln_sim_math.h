// Arithmetic functions of the device that C++ has under other names, or not at all.
#pragma once

namespace sim {
template <class To, class From>
inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To out;
    __builtin_memcpy(&out, &value, sizeof out);
    return out;
}
}  // namespace sim

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

inline int __float_as_int(float x) { return sim::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return sim::bits<unsigned>(x); }
inline float __int_as_float(int x) { return sim::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return sim::bits<float>(x); }
inline long long __double_as_longlong(double x) { return sim::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return sim::bits<double>(x); }

// The device's `min` and `max` take any two arithmetic types, and return the number if the other operand is NaN.
template <class A, class B>
inline std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
    else return T(a) < T(b) ? T(a) : T(b);
}
template <class A, class B>
inline std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}
inline unsigned umin(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned umax(unsigned a, unsigned b) { return a < b ? b : a; }

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dsub_rn(double x, double y) { return x - y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

namespace sim {
// The angle of `pi x` with `x` reduced modulo 2, so that sines of `pi x` are exact where they should be.
template <class T> inline T turn(T x) { return T(3.14159265358979323846264338327950288L) * std::remainder(x, T(2)); }
}  // namespace sim
inline float sinpif(float x) { return float(std::sin(sim::turn(double(x)))); }
inline float cospif(float x) { return float(std::cos(sim::turn(double(x)))); }
inline double sinpi(double x) { return double(std::sin(sim::turn(static_cast<long double>(x)))); }
inline double cospi(double x) { return double(std::cos(sim::turn(static_cast<long double>(x)))); }
inline void sincospif(float x, float *s, float *c) { *s = sinpif(x), *c = cospif(x); }
inline void sincospi(double x, double *s, double *c) { *s = sinpi(x), *c = cospi(x); }
inline float normcdff(float x) { return float(0.5 * std::erfc(-double(x) * 0.70710678118654752440)); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline int __mulhi(int a, int b) { return int((int64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
inline long long __mul64hi(long long a, long long b) { return (long long)(((__int128)a * b) >> 64); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return unsigned(((uint64_t(high) << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return unsigned((uint64_t(high) << 32 | low) >> (by & 31));
}
inline unsigned __brev(unsigned x) {
    unsigned out = 0;
    for (int i = 0; i < 32; ++i) out = out << 1 | (x >> i & 1);
    return out;
}

// Conversions from floats saturate on the device, and NaN becomes 0 (for 64 bits: the lowest value); in C++ both are
// undefined. These are the conversion functions; a plain cast compiles to the processor's conversion.
namespace sim {
template <class I, class F>
inline I saturate(F x) {
    if (x != x) return sizeof(I) == 8 ? I(I(1) << 63) : 0;
    const F low = F(std::is_signed_v<I> ? -std::ldexp(F(1), int(sizeof(I)) * 8 - 1) : F(0));
    const F high = std::ldexp(F(1), int(sizeof(I)) * 8 - int(std::is_signed_v<I>));
    if (x < low) return I(low);
    if (x >= high) return std::is_signed_v<I> ? I(~(I(1) << (sizeof(I) * 8 - 1))) : I(~I(0));
    return I(x);
}
}  // namespace sim
#define KILN_SIM_CONVERT(from, F, to, I)                                             \
    inline I __##from##2##to##_rn(F x) { return sim::saturate<I>(std::nearbyint(x)); } \
    inline I __##from##2##to##_rz(F x) { return sim::saturate<I>(std::trunc(x)); }     \
    inline I __##from##2##to##_rd(F x) { return sim::saturate<I>(std::floor(x)); }     \
    inline I __##from##2##to##_ru(F x) { return sim::saturate<I>(std::ceil(x)); }
KILN_SIM_CONVERT(float, float, int, int)
KILN_SIM_CONVERT(float, float, uint, unsigned)
KILN_SIM_CONVERT(float, float, ll, long long)
KILN_SIM_CONVERT(float, float, ull, unsigned long long)
KILN_SIM_CONVERT(double, double, int, int)
KILN_SIM_CONVERT(double, double, uint, unsigned)
KILN_SIM_CONVERT(double, double, ll, long long)
KILN_SIM_CONVERT(double, double, ull, unsigned long long)
#undef KILN_SIM_CONVERT
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ll2float_rn(long long x) { return float(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }
inline double __int2double_rn(int x) { return x; }
inline double __ll2double_rn(long long x) { return double(x); }
