// Element-wise functions of two operands, each a tensor or a number: a kernel for each row of binary_table.cuh and dtype.
#include "table.cuh"

// The rows of the table: `BINARY` of float, and of int where the row has `ints(...)`; `BITWISE` of int and bool;
// `COMPARISON` of all into bool (a > b is b < a). A null operand is the number x or y.
FAMILY(binary, Grid<3> grid, address a, address b, address out, Number x, Number y, address status);

#define DEFINE(name, cost, dtype, T, O, before, value)                                                       \
    KERNEL binary_##name##_##dtype(BY_VALUE Grid<3> grid, const T* left, const T* right, O* out, uint64_t x, \
                                   uint64_t y, Status* status) {                                             \
        typedef Compute<T> R;                                                                                \
        before;                                                                                              \
        map2<cost>(grid, operand(left, x), operand(right, y), out,                                           \
                   [=](R a, R b) -> Compute<O> { return (Compute<O>)(value); });                             \
    }

// Names of functions are those of real.cuh here.
namespace real {
#define POW [[maybe_unused]] const Power<R> pow{right == nullptr}
#define BINARY(variant, name, doc, cost, value, ints, node, grad_cost, lhs, rhs) \
    DEFINE(name, cost, f32, f32, f32, POW, value)                                \
    DEFINE(name, cost, f64, f64, f64, POW, value)                                \
    DEFINE(name, cost, f16, f16, f16, POW, value)                                \
    DEFINE(name, cost, bf16, bf16, bf16, POW, value)
#define COMPARISON(variant, name, doc, value)
#define BITWISE(variant, name, doc, value)
#include "binary_table.cuh"
#undef BINARY
#undef COMPARISON
#undef BITWISE
}  // namespace real

// Here those of integer.cuh.
namespace integer {
#define INTEGER_ROW(name, cost, value)         \
    DEFINE(name, cost, i64, i64, i64, , value) \
    DEFINE(name, cost, i32, i32, i32, , value) \
    DEFINE(name, cost, u8, u8, u8, , value)
#define BINARY(variant, name, doc, cost, value, ints, ...) INTEGERS(name, cost, ints)
#define COMPARISON(variant, name, doc, value)          \
    DEFINE(name, CHEAP, f32, f32, truth, , value)      \
    DEFINE(name, CHEAP, f64, f64, truth, , value)      \
    DEFINE(name, CHEAP, f16, f16, truth, , value)      \
    DEFINE(name, CHEAP, bf16, bf16, truth, , value)    \
    DEFINE(name, CHEAP, i64, i64, truth, , value)      \
    DEFINE(name, CHEAP, i32, i32, truth, , value)      \
    DEFINE(name, CHEAP, u8, u8, truth, , value)        \
    DEFINE(name, CHEAP, bool, truth, truth, , value)
#define BITWISE(variant, name, doc, value)           \
    INTEGER_ROW(name, CHEAP, value)                  \
    DEFINE(name, CHEAP, bool, truth, truth, , value)
#include "binary_table.cuh"
}  // namespace integer
