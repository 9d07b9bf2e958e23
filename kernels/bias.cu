// Bias and ReLU after a matrix product, in place: for products for which cuBLASLt has no such epilogue.
#include "map.cuh"

// `add relu` of float.
FAMILY(bias, Grid<2> grid, address bias, address out);

// NaN stays NaN.
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
