// Gradients of the functions in unary.cu: `OP(name, gradient from g and what was saved, s)`.
#include "map.cuh"
#include "real.cuh"

FAMILY(unary_grad);

// Names of functions are those of real.cuh here.
namespace real {

#define DEFINE(most, name, dtype, T, slope)                                                                       \
    KERNEL unary_grad_##name##_##dtype(BY_VALUE Grid<3> grid, const T* grad, const T* saved, T* out) {      \
        typedef Compute<T> R;                                                                               \
        map2<most>(grid, tensor(grad), tensor(saved), out, [](R g, R s) -> R { return slope; });                  \
    }
// For the gradients that read nothing but g: `saved` is not touched.
#define DEFINE_ALONE(most, name, dtype, T, slope)                                                                 \
    KERNEL unary_grad_##name##_##dtype(BY_VALUE Grid<3> grid, const T* grad, const T*, T* out) {            \
        typedef Compute<T> R;                                                                               \
        map2<most>(grid, tensor(grad), Input<T>{nullptr, R(0)}, out, [](R g, R) -> R { return slope; });          \
    }
#define EACH(define, most, name, slope)       \
    define(most, name, f32, f32, slope)       \
    define(most, name, f64, f64, slope)       \
    define(most, name, f16, f16, slope)       \
    define(most, name, bf16, bf16, slope)
#define OP(name, slope) EACH(DEFINE, FEW, name, slope)
#define SLOW(name, slope) EACH(DEFINE, ONE, name, slope)
#define ALONE(name, slope) EACH(DEFINE_ALONE, FEW, name, slope)

ALONE(neg, -g)
OP(abs, g * sign(s))
ALONE(sign, R(0) * g)
OP(square, g * (s + s))
OP(reciprocal, -g * s * s)
SLOW(sqrt, g / (s + s))
OP(rsqrt, R(-0.5) * g * s * s * s)
OP(exp, g * s)
OP(exp2, g * s * R(0.6931471805599453))
OP(expm1, g * (s + R(1)))
OP(log, g / s)
SLOW(log2, g / (s * R(0.6931471805599453)))
SLOW(log10, g / (s * R(2.302585092994046)))
OP(log1p, g / (s + R(1)))
// The only ones that use local memory, a few dozen bytes: for huge angles CUDA's library looks bits of pi up and keeps
// some of them there. Ordinary angles do not touch it.
SLOW(sin, g * cos(s))
SLOW(cos, -g * sin(s))
OP(tan, g * (R(1) + s * s))
SLOW(asin, g / sqrt(R(1) - s * s))
SLOW(acos, -g / sqrt(R(1) - s * s))
SLOW(atan, g / (R(1) + s * s))
SLOW(sinh, g * cosh(s))
SLOW(cosh, g * sinh(s))
OP(tanh, g * (R(1) - s * s))
OP(sigmoid, g * s * (R(1) - s))
OP(relu, s <= R(0) ? R(0) : g)
SLOW(gelu, g * (R(0.5) * (R(1) + erf(s * R(0.7071067811865476))) + s * R(0.3989422804014327) * exp(R(-0.5) * s * s)))
SLOW(gelu_tanh, g * gelu_tanh_slope(s))
SLOW(silu, g * sigmoid(s) * (R(1) + s * (R(1) - sigmoid(s))))
SLOW(softplus, g * sigmoid(s))
SLOW(log_sigmoid, g * sigmoid(-s))
SLOW(erf, g * R(1.1283791670955126) * exp(-s * s))
ALONE(floor, R(0) * g)
ALONE(ceil, R(0) * g)
ALONE(round, R(0) * g)
ALONE(trunc, R(0) * g)
}  // namespace real
