// Gradients of the operations of one tensor: a kernel for each row of unary_table.cuh and float dtype.
#include "table.cuh"

// The rows of the table, of float. `saved` is null where a row saves nothing.
FAMILY(unary_grad, Grid<3> grid, address grad, address saved, address out);

// In this namespace function names refer to real.cuh.
namespace real {

// If the gradient reads only the incoming one, `saved` may be null.
#define SAVED_input(T) tensor(saved)
#define SAVED_output(T) tensor(saved)
#define SAVED_nothing(T) Input<T>{nullptr, R(0)}

#define DEFINE(dtype, T, name, kind, cost, gradient)                                                   \
    KERNEL unary_grad_##name##_##dtype(BY_VALUE Grid<3> grid, const T* grad, const T* saved, T* out) { \
        typedef Compute<T> R;                                                                          \
        map2<cost>(grid, tensor(grad), SAVED_##kind(T), out, [](R g, R s) -> R { return gradient; });  \
    }
#define UNARY(variant, name, doc, cost, value, ints, node, saved, grad_cost, gradient) \
    FOR_FLOAT(DEFINE, name, saved, grad_cost, gradient)
#include "unary_table.cuh"
}  // namespace real
