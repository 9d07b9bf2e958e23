// Element-wise functions of one tensor: a kernel for each row of unary_table.cuh and dtype.
#include "table.cuh"

// The rows of the table: of float, and of int where the row has `ints(...)` (`ints_unchanged` are copies).
FAMILY(unary, Grid<2> grid, address x, address out);

#define DEFINE(name, cost, dtype, T, value)                                  \
    KERNEL unary_##name##_##dtype(BY_VALUE Grid<2> grid, const T* in, T* out) { \
        typedef Compute<T> R;                                                \
        map1<cost>(grid, tensor(in), out, [](R x) -> R { return value; });   \
    }

// Names of functions are those of real.cuh here.
namespace real {
#define UNARY(variant, name, doc, cost, value, ints, node, saved, grad_cost, gradient) \
    DEFINE(name, cost, f32, f32, value)                                                \
    DEFINE(name, cost, f64, f64, value)                                                \
    DEFINE(name, cost, f16, f16, value)                                                \
    DEFINE(name, cost, bf16, bf16, value)
#include "unary_table.cuh"
#undef UNARY
}  // namespace real

// Here those of integer.cuh.
namespace integer {
#define INTEGER_ROW(name, cost, value)    \
    DEFINE(name, cost, i64, i64, value)   \
    DEFINE(name, cost, i32, i32, value)   \
    DEFINE(name, cost, u8, u8, value)
#define UNARY(variant, name, doc, cost, value, ints, ...) INTEGERS(name, cost, ints)
#include "unary_table.cuh"
}  // namespace integer
