// Element-wise functions of two operands, each a tensor or a number: the CUDA side of `binary_table!`, and
// comparisons. One line is one function.
#include "map.cuh"
#include "real.cuh"

FAMILY(binary);

// Names of functions are those of real.cuh here.
namespace real {

#define DEFINE(most, name, dtype, T, O, value)                                                                         \
    KERNEL binary_##name##_##dtype(BY_VALUE Grid<3> grid, const T* left, const T* right, O* out, uint64_t x,     \
                                   uint64_t y, Status* status) {                                                 \
        typedef Compute<T> R;                                                                                    \
        map2<most>(grid, operand(left, x), operand(right, y), out,                                               \
             [status](R a, R b) -> Compute<O> { return value; });                                                \
    }
#define EACH(most, name, value)                  \
    DEFINE(most, name, f32, f32, f32, value)     \
    DEFINE(most, name, f64, f64, f64, value)     \
    DEFINE(most, name, f16, f16, f16, value)     \
    DEFINE(most, name, bf16, bf16, bf16, value)
#define OP(name, value) EACH(FEW, name, value)
#define SLOW(name, value) EACH(ONE, name, value)
#define INT_EACH(most, name, value)              \
    DEFINE(most, name, i64, i64, i64, value)     \
    DEFINE(most, name, i32, i32, i32, value)     \
    DEFINE(most, name, u8, u8, u8, value)
#define INT_OP(name, value) INT_EACH(FEW, name, value)
#define INT_SLOW(name, value) INT_EACH(ONE, name, value)
#define BIT_OP(name, value)                \
    INT_OP(name, value)                    \
    DEFINE(FEW, name, bool, truth, truth, value)

// Powers of integers wrap; a negative exponent is reported.
template <typename I>
__device__ inline I int_power(I base, I exponent, Status* status) {
    if (exponent < I(0)) {
        report(status, STATUS_EXPONENT, (int64_t)exponent, 0);
        return 0;
    }
    uint64_t factor = (uint64_t)base, result = 1;
    for (uint64_t left = (uint64_t)exponent; left > 0; left >>= 1) {
        if (left & 1) result *= factor;
        factor *= factor;
    }
    return (I)result;
}

// Python's %: the sign is that of the divisor; 0 as divisor is reported.
template <typename I>
__device__ inline I int_remainder(I a, I b, Status* status) {
    if (b == I(0)) {
        report(status, STATUS_DIVISOR, (int64_t)a, 0);
        return 0;
    }
    // The most negative number by -1 overflows; its remainder is 0.
    if (b == I(-1) && I(-1) < I(0)) return 0;
    I rest = a % b;
    return rest != I(0) && (rest < I(0)) != (b < I(0)) ? (I)(rest + b) : rest;
}

OP(add, a + b)
OP(sub, a - b)
OP(mul, a * b)
OP(div, a / b)
OP(maximum, maximum(a, b))
OP(minimum, minimum(a, b))
SLOW(atan2, atan2(a, b))
SLOW(remainder, a - b * floor(a / b))

// A number as exponent is the same for all elements: the usual ones need no logarithm.
#define POWER(dtype, T)                                                                                          \
    KERNEL binary_pow_##dtype(BY_VALUE Grid<3> grid, const T* left, const T* right, T* out, uint64_t x,          \
                              uint64_t y, Status*) {                                                             \
        typedef Compute<T> R;                                                                                    \
        bool tensors = right != nullptr;                                                                         \
        map2<ONE>(grid, operand(left, x), operand(right, y), out,                                                     \
             [tensors](R a, R b) -> R { return tensors ? pow(a, b) : power(a, b); });                            \
    }
FOR_FLOAT(POWER)

INT_OP(add, (R)((uint64_t)a + (uint64_t)b))
INT_OP(sub, (R)((uint64_t)a - (uint64_t)b))
INT_OP(mul, (R)((uint64_t)a * (uint64_t)b))
INT_OP(maximum, a > b ? a : b)
INT_OP(minimum, a < b ? a : b)
INT_SLOW(pow, int_power(a, b, status))
INT_SLOW(remainder, int_remainder(a, b, status))

BIT_OP(logical_and, (R)(a & b))
BIT_OP(logical_or, (R)(a | b))
BIT_OP(logical_xor, (R)(a ^ b))

#define EQ(dtype, T) DEFINE(FEW, eq, dtype, T, truth, a == b)
#define NE(dtype, T) DEFINE(FEW, ne, dtype, T, truth, a != b)
#define LT(dtype, T) DEFINE(FEW, lt, dtype, T, truth, a < b)
#define LE(dtype, T) DEFINE(FEW, le, dtype, T, truth, a <= b)
FOR_ALL(EQ)
FOR_ALL(NE)
FOR_ALL(LT)
FOR_ALL(LE)
}  // namespace real
