// The functions and constants of the formulas in unary_table.cuh and binary_table.cuh, for f32 and f64 under one name each.
#pragma once
#include "common.cuh"

#define REAL_FUNCTION(name, single, twice)                       \
    __device__ inline f32 name(f32 x) { return single(x); }      \
    __device__ inline f64 name(f64 x) { return twice(x); }

namespace real {
constexpr f64 LN_2 = 0.6931471805599453;
constexpr f64 LN_10 = 2.302585092994046;
constexpr f64 PI = 3.141592653589793;
constexpr f64 FRAC_1_SQRT_2 = 0.7071067811865476;
constexpr f64 FRAC_2_SQRT_PI = 1.1283791670955126;
constexpr f64 FRAC_1_SQRT_2PI = 0.3989422804014327;
// SELU's scale, and the scale times alpha.
constexpr f64 SELU_SCALE = 1.0507009873554805;
constexpr f64 SELU_SLOPE = 1.7580993408473766;

REAL_FUNCTION(abs, fabsf, fabs)
REAL_FUNCTION(sqrt, sqrtf, ::sqrt)
REAL_FUNCTION(exp, expf, ::exp)
REAL_FUNCTION(exp2, exp2f, ::exp2)
REAL_FUNCTION(expm1, expm1f, ::expm1)
REAL_FUNCTION(log, logf, ::log)
REAL_FUNCTION(log2, log2f, ::log2)
REAL_FUNCTION(log10, log10f, ::log10)
REAL_FUNCTION(log1p, log1pf, ::log1p)
REAL_FUNCTION(sin, sinf, ::sin)
REAL_FUNCTION(cos, cosf, ::cos)
REAL_FUNCTION(tan, tanf, ::tan)
REAL_FUNCTION(asin, asinf, ::asin)
REAL_FUNCTION(acos, acosf, ::acos)
REAL_FUNCTION(atan, atanf, ::atan)
REAL_FUNCTION(asinh, asinhf, ::asinh)
REAL_FUNCTION(acosh, acoshf, ::acosh)
REAL_FUNCTION(atanh, atanhf, ::atanh)
REAL_FUNCTION(sinh, sinhf, ::sinh)
REAL_FUNCTION(cosh, coshf, ::cosh)
REAL_FUNCTION(tanh, tanhf, ::tanh)
REAL_FUNCTION(erf, erff, ::erf)
REAL_FUNCTION(sinpi, sinpif, ::sinpi)
REAL_FUNCTION(cospi, cospif, ::cospi)
REAL_FUNCTION(erfc, erfcf, ::erfc)
REAL_FUNCTION(lgamma, lgammaf, ::lgamma)
REAL_FUNCTION(floor, floorf, ::floor)
REAL_FUNCTION(ceil, ceilf, ::ceil)
REAL_FUNCTION(rint, rintf, ::rint)
REAL_FUNCTION(trunc, truncf, ::trunc)

__device__ inline f32 pow(f32 a, f32 b) { return powf(a, b); }
__device__ inline f64 pow(f64 a, f64 b) { return ::pow(a, b); }
__device__ inline f32 atan2(f32 a, f32 b) { return atan2f(a, b); }
__device__ inline f64 atan2(f64 a, f64 b) { return ::atan2(a, b); }
// C's remainder: exact, with the sign of the dividend.
__device__ inline f32 fmod(f32 a, f32 b) { return fmodf(a, b); }
__device__ inline f64 fmod(f64 a, f64 b) { return ::fmod(a, b); }

template <typename R>
__device__ inline R select(bool condition, R a, R b) {
    return condition ? a : b;
}

// -1, 0 or 1; 0 of NaN, as in PyTorch.
template <typename R>
__device__ inline R sign(R x) {
    return x > R(0) ? R(1) : x < R(0) ? R(-1) : R(0);
}

template <typename R>
__device__ inline R sigmoid(R x) {
    return R(1) / (R(1) + exp(-x));
}

// The argument of the exponential is never positive, so it cannot overflow.
template <typename R>
__device__ inline R softplus(R x) {
    return (x > R(0) ? x : R(0)) + log1p(exp(-abs(x)));
}

// NaN if either is.
template <typename R>
__device__ inline R maximum(R a, R b) {
    return a > b || a != a ? a : b;
}

template <typename R>
__device__ inline R minimum(R a, R b) {
    return a < b || a != a ? a : b;
}

// Python's remainder: exact, with the sign of the divisor.
template <typename R>
__device__ inline R remainder(R a, R b) {
    R rest = fmod(a, b);
    return rest != R(0) && (rest < R(0)) != (b < R(0)) ? rest + b : rest;
}

// Python's //: the quotient that goes with the remainder.
template <typename R>
__device__ inline R floor_divide(R a, R b) {
    if (b == R(0)) return a / b;
    R rest = fmod(a, b);
    R exact = (a - rest) / b;
    if (rest != R(0) && (rest < R(0)) != (b < R(0))) exact -= R(1);
    if (exact == R(0)) return R(0) * (a / b);  // with the sign of the quotient
    R below = floor(exact);
    return exact - below > R(0.5) ? below + R(1) : below;
}

template <typename R>
__device__ inline R normal_distribution(R x) {
    return R(0.5) * (R(1) + erf(x * R(0.7071067811865476)));
}

template <typename R>
__device__ inline R gelu(R x) {
    return x * normal_distribution(x);
}

template <typename R>
__device__ inline R gelu_slope(R x) {
    return normal_distribution(x) + x * R(0.3989422804014327) * exp(R(-0.5) * x * x);
}

template <typename R>
__device__ inline R gelu_inner(R x) {
    return R(0.7978845608028654) * (x + R(0.044715) * x * x * x);
}

template <typename R>
__device__ inline R gelu_tanh(R x) {
    return R(0.5) * x * (R(1) + tanh(gelu_inner(x)));
}

template <typename R>
__device__ inline R gelu_tanh_slope(R x) {
    R t = tanh(gelu_inner(x));
    R inner_slope = R(0.7978845608028654) * (R(1) + R(3 * 0.044715) * x * x);
    return R(0.5) * (R(1) + t) + R(0.5) * x * (R(1) - t * t) * inner_slope;
}

#include "special.cuh"

// Powers whose exponent may be a number, the same for all elements: the common exponents need no logarithm, as on the
// CPU.
template <typename R>
struct Power {
    bool number;

    __device__ R operator()(R x, R b) const {
        if (!number) return pow(x, b);
        if (b == R(2)) return x * x;
        if (b == R(0.5)) return sqrt(x);
        if (b == R(1)) return x;
        if (b == R(3)) return x * x * x;
        if (b == R(-0.5)) return R(1) / sqrt(x);
        if (b == R(-1)) return R(1) / x;
        if (b == R(-2)) return R(1) / (x * x);
        if (b == R(0)) return R(1);
        return pow(x, b);
    }
};
}  // namespace real

// `exp(x)` as exactly as the dtype can tell: for half precision a power of 2, which takes three instructions less. What that
// loses grows with the exponent, and stays far below a rounding to half precision wherever the power is not 0 in it.
template <typename T>
__device__ inline Compute<T> power(Compute<T> x) {
    if constexpr (sizeof(T) == 2) return real::exp2(x * 1.44269504f);
    return real::exp(x);
}

// `power` as a term of a sum in which another term is 1: what is below 2^-126 counts as 0, which takes another three
// instructions less. (`exp2f` does so for all of a file or for none of it.)
template <typename T>
__device__ inline Compute<T> power_in_sum(Compute<T> x) {
#ifdef __CUDACC__
    if constexpr (sizeof(T) == 2) {
        f32 power;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * 1.44269504f));
        return power;
    }
#endif
    return power<T>(x);
}
