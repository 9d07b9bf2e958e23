// Gradients of the arithmetic functions in binary.cu: `OP(name, for a, for b)` from g, a and b.
#include "map.cuh"
#include "real.cuh"

FAMILY(binary_lhs);
FAMILY(binary_rhs);

// Names of functions are those of real.cuh here.
namespace real {

#define DEFINE(most, side, name, dtype, T, slope)                                                                      \
    KERNEL binary_##side##_##name##_##dtype(BY_VALUE Grid<4> grid, const T* grad, const T* left,                 \
                                            const T* right, T* out, uint64_t x, uint64_t y) {                    \
        typedef Compute<T> R;                                                                                    \
        bool tensors = right != nullptr;                                                                         \
        map3<most>(grid, tensor(grad), operand(left, x), operand(right, y), out,                                       \
             [tensors](R g, R a, R b) -> R { return slope; });                                                   \
    }
#define EACH(most, side, name, slope)                \
    DEFINE(most, side, name, f32, f32, slope)        \
    DEFINE(most, side, name, f64, f64, slope)        \
    DEFINE(most, side, name, f16, f16, slope)        \
    DEFINE(most, side, name, bf16, bf16, slope)
#define OP(name, for_a, for_b) EACH(FEW, lhs, name, for_a) EACH(FEW, rhs, name, for_b)
#define SLOW(name, for_a, for_b) EACH(ONE, lhs, name, for_a) EACH(ONE, rhs, name, for_b)

OP(add, g, g)
OP(sub, g, -g)
OP(mul, g * b, g * a)
SLOW(div, g / b, -g * (a / b) / b)
SLOW(pow, b == R(0) ? R(0) : g * b * (tensors ? pow(a, b - R(1)) : power(a, b - R(1))),
   a == R(0) && b >= R(0) ? R(0) : g * pow(a, b) * log(a))
OP(maximum, a == b ? g * R(0.5) : a < b ? R(0) : g, a == b ? g * R(0.5) : b < a ? R(0) : g)
OP(minimum, a == b ? g * R(0.5) : a > b ? R(0) : g, a == b ? g * R(0.5) : b > a ? R(0) : g)
SLOW(atan2, g * b / (a * a + b * b), -g * a / (a * a + b * b))
SLOW(remainder, g, -g * floor(a / b))
}  // namespace real
