// Element-wise functions of one tensor: the CUDA side of `unary_table!` (crates/backend/src/table.rs). One line here
// is one function: `OP(name, value of x)`; R is f32 or f64.
#include "map.cuh"
#include "real.cuh"

FAMILY(unary);

// Names of functions are those of real.cuh here.
namespace real {

#define DEFINE(most, name, dtype, T, value)                                              \
    KERNEL unary_##name##_##dtype(BY_VALUE Grid<2> grid, const T* in, T* out) {    \
        typedef Compute<T> R;                                                      \
        map1<most>(grid, tensor(in), out, [](R x) -> R { return value; });               \
    }
#define EACH(most, name, value)            \
    DEFINE(most, name, f32, f32, value)    \
    DEFINE(most, name, f64, f64, value)    \
    DEFINE(most, name, f16, f16, value)    \
    DEFINE(most, name, bf16, bf16, value)
#define OP(name, value) EACH(FEW, name, value)
// For what costs more than memory does.
#define SLOW(name, value) EACH(ONE, name, value)
// Integers wrap.
#define INT_OP(name, value)                \
    DEFINE(FEW, name, i64, i64, value)     \
    DEFINE(FEW, name, i32, i32, value)     \
    DEFINE(FEW, name, u8, u8, value)

OP(neg, -x)
OP(abs, abs(x))
OP(sign, sign(x))
OP(square, x * x)
OP(reciprocal, R(1) / x)
OP(sqrt, sqrt(x))
OP(rsqrt, R(1) / sqrt(x))
SLOW(exp, exp(x))
SLOW(exp2, exp2(x))
SLOW(expm1, expm1(x))
SLOW(log, log(x))
SLOW(log2, log2(x))
SLOW(log10, log10(x))
SLOW(log1p, log1p(x))
// The only ones that use local memory, a few dozen bytes: for huge angles CUDA's library looks bits of pi up and keeps
// some of them there. Ordinary angles do not touch it.
SLOW(sin, sin(x))
SLOW(cos, cos(x))
SLOW(tan, tan(x))
SLOW(asin, asin(x))
SLOW(acos, acos(x))
SLOW(atan, atan(x))
SLOW(sinh, sinh(x))
SLOW(cosh, cosh(x))
SLOW(tanh, tanh(x))
SLOW(sigmoid, sigmoid(x))
OP(relu, x <= R(0) ? R(0) : x)
SLOW(gelu, R(0.5) * x * (R(1) + erf(x * R(0.7071067811865476))))
SLOW(gelu_tanh, gelu_tanh(x))
SLOW(silu, x * sigmoid(x))
SLOW(softplus, softplus(x))
SLOW(log_sigmoid, -softplus(-x))
SLOW(erf, erf(x))
OP(floor, floor(x))
OP(ceil, ceil(x))
OP(round, rint(x))
OP(trunc, trunc(x))

INT_OP(neg, (R)(0 - (uint64_t)x))
INT_OP(abs, x < R(0) ? (R)(0 - (uint64_t)x) : x)
INT_OP(sign, (R)((x > R(0)) - (x < R(0))))
INT_OP(square, (R)((uint64_t)x * (uint64_t)x))
INT_OP(relu, x < R(0) ? R(0) : x)
}  // namespace real
