// Choices between elements: by a condition, by a triangle; and what cuBLASLt's epilogue does where it offers none.
#include "map.cuh"

FAMILY(select);
FAMILY(triangle);
FAMILY(bias);

#define SELECT(name, T)                                                                                         \
    KERNEL select_where_##name(BY_VALUE Grid<4> grid, const truth* condition, const T* a, const T* b, T* out,   \
                               uint64_t x, uint64_t y) {                                                        \
        Input<T> first{a, T{(decltype(T::bits))x}}, second{b, T{(decltype(T::bits))y}};                         \
        map3<ALL>(grid, tensor(condition), first, second, out, [](u8 c, T a, T b) { return c ? a : b; });            \
    }
FOR_BITS(SELECT)

#define TRIANGLE(name, T)                                                                                       \
    KERNEL triangle_keep_##name(BY_VALUE Grid<2> grid, const T* x, T* out, BY_VALUE Triangle shape) {           \
        for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {                                \
            Offsets<2> at = locate(grid, i);                                                                    \
            int64_t column = (int64_t)(i % shape.columns), row = (int64_t)(i / shape.columns % shape.rows);     \
            int64_t distance = column - row;                                                                    \
            bool kept = shape.upper ? distance >= shape.diagonal : distance <= shape.diagonal;                  \
            out[at.at[1]] = kept ? x[at.at[0]] : T{0};                                                          \
        }                                                                                                       \
    }
FOR_BITS(TRIANGLE)

// In place. NaN stays NaN.
#define BIAS(name, T)                                                                                           \
    KERNEL bias_add_##name(BY_VALUE Grid<2> grid, const T* bias, T* out) {                                      \
        for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {                                \
            Offsets<2> at = locate(grid, i);                                                                    \
            out[at.at[1]] = store<T>(load(out[at.at[1]]) + load(bias[at.at[0]]));                               \
        }                                                                                                       \
    }                                                                                                           \
    KERNEL bias_relu_##name(BY_VALUE Grid<2> grid, const T* bias, T* out) {                                     \
        typedef Compute<T> R;                                                                                   \
        for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {                                \
            Offsets<2> at = locate(grid, i);                                                                    \
            R sum = load(out[at.at[1]]) + (bias ? load(bias[at.at[0]]) : R(0));                                 \
            out[at.at[1]] = store<T>(sum <= R(0) ? R(0) : sum);                                                 \
        }                                                                                                       \
    }
FOR_FLOAT(BIAS)
