// Gradients of the operations of two operands: a kernel for each row of binary_table.cuh, operand and float dtype.
#include "table.cuh"

// Gradients of the `BINARY` rows for a (`lhs`) and for b (`rhs`), of float. A null operand is the number x or y.
FAMILY(binary_lhs, Grid<4> grid, address grad, address a, address b, address out, Number x, Number y);
FAMILY(binary_rhs, Grid<4> grid, address grad, address a, address b, address out, Number x, Number y);

// In this namespace function names refer to real.cuh.
namespace real {

#define DEFINE(dtype, T, name, side, cost, gradient)                                                   \
    KERNEL binary_##side##_##name##_##dtype(BY_VALUE Grid<4> grid, const T* grad, const T* left,       \
                                            const T* right, T* out, uint64_t x, uint64_t y) {          \
        typedef Compute<T> R;                                                                          \
        [[maybe_unused]] const Power<R> pow{right == nullptr};                                                          \
        map3<cost>(grid, tensor(grad), operand(left, x), operand(right, y), out,                       \
                   [=](R g, R a, R b) -> R { return gradient; });                                      \
    }
#define BINARY(variant, name, doc, cost, value, ints, node, grad_cost, lhs_gradient, rhs_gradient) \
    FOR_FLOAT(DEFINE, name, lhs, grad_cost, lhs_gradient)                                          \
    FOR_FLOAT(DEFINE, name, rhs, grad_cost, rhs_gradient)
#define COMPARISON(variant, name, doc, value)
#define BITWISE(variant, name, doc, value)
#include "binary_table.cuh"
}  // namespace real
