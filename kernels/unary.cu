// Element-wise operations of one tensor: a kernel for each row of unary_table.cuh and dtype.
#include "table.cuh"

// The rows of the table: of float, and of int where the row has `ints(...)` (`ints_unchanged` are copies).
FAMILY(unary, Grid<2> grid, address x, address out);

#define DEFINE(dtype, T, name, cost, value)                                  \
    KERNEL unary_##name##_##dtype(BY_VALUE Grid<2> grid, const T* in, T* out) { \
        typedef Compute<T> R;                                                \
        map1<cost>(grid, tensor(in), out, [](R x) -> R { return value; });   \
    }

// In this namespace function names refer to real.cuh.
namespace real {
#define UNARY(variant, name, doc, cost, value, ints, node, saved, grad_cost, gradient) \
    FOR_FLOAT(DEFINE, name, cost, value)
#include "unary_table.cuh"
#undef UNARY
}  // namespace real

// In this namespace they refer to integer.cuh.
namespace integer {
#define INTEGER_ROW(name, cost, value) FOR_INT(DEFINE, name, cost, value)
#define UNARY(variant, name, doc, cost, value, ints, ...) INTEGERS(name, cost, ints)
#include "unary_table.cuh"
}  // namespace integer
