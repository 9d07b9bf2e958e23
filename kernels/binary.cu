// Element-wise operations of two operands, each a tensor or a number: a kernel for each row of binary_table.cuh and
// dtype.
#include "table.cuh"

// The rows of the table: `BINARY` of float, and of int where the row has `ints(...)`; `BITWISE` of int and bool;
// `COMPARISON` of all into bool (a > b is b < a). A null operand is the number x or y.
FAMILY(binary, Grid<3> grid, address a, address b, address out, Number x, Number y, address status);

#define DEFINE(dtype, T, name, cost, O, before, value)                                                       \
    KERNEL binary_##name##_##dtype(BY_VALUE Grid<3> grid, const T* left, const T* right, O* out, uint64_t x, \
                                   uint64_t y, Status* status) {                                             \
        typedef Compute<T> R;                                                                                \
        before;                                                                                              \
        map2<cost>(grid, operand(left, x), operand(right, y), out,                                           \
                   [=](R a, R b) -> Compute<O> { return (Compute<O>)(value); });                             \
    }

// In this namespace function names refer to real.cuh.
namespace real {
// From and to one dtype.
#define ARITHMETIC(dtype, T, name, cost, before, value) DEFINE(dtype, T, name, cost, T, before, value)
#define POW [[maybe_unused]] const Power<R> pow{right == nullptr}
#define BINARY(variant, name, doc, cost, value, ints, node, grad_cost, lhs, rhs) \
    FOR_FLOAT(ARITHMETIC, name, cost, POW, value)
#define COMPARISON(variant, name, doc, value)
#define BITWISE(variant, name, doc, value)
#include "binary_table.cuh"
#undef BINARY
#undef COMPARISON
#undef BITWISE
}  // namespace real

// In this namespace they refer to integer.cuh.
namespace integer {
#define INTEGER_ROW(name, cost, value) FOR_INT(ARITHMETIC, name, cost, , value)
#define BINARY(variant, name, doc, cost, value, ints, ...) INTEGERS(name, cost, ints)
#define COMPARISON(variant, name, doc, value) FOR_ALL(DEFINE, name, CHEAP, truth, , value)
#define BITWISE(variant, name, doc, value) \
    INTEGER_ROW(name, CHEAP, value)        \
    DEFINE(bool, truth, name, CHEAP, truth, , value)
#include "binary_table.cuh"
}  // namespace integer
