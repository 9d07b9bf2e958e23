// Dropout by a seed: no mask is stored, and the gradient is the same function.
#include "philox.cuh"

// `apply` of float.
FAMILY(dropout, Grid<2> grid, address x, address out, RandomState state, u64 threshold, f64 scale);

// A thread takes the four elements of a counter block. An element whose word is below the threshold is dropped, even
// NaN.
#define DROPOUT(name, T)                                                                                        \
    KERNEL dropout_apply_##name(BY_VALUE Grid<2> grid, const T* x, T* out, BY_VALUE RandomState given,          \
                                uint64_t threshold, f64 scale) {                                                \
        typedef Compute<T> R;                                                                                   \
        RandomState state = absolute(given);                                                                    \
        for (uint64_t b = thread_index(); b * 4 < grid.numel; b += thread_count()) {                            \
            Block block = philox(state, b);                                                                     \
            _Pragma("unroll") for (int i = 0; i < 4; ++i) {                                                     \
                if (b * 4 + i >= grid.numel) break;                                                             \
                Offsets<2> at = locate(grid, b * 4 + i);                                                        \
                bool kept = block.words[i] >= threshold;                                                        \
                /* Without dropping, even the product with 1 is left out, as on the CPU. */                     \
                R value = load(x[at.at[0]]);                                                                    \
                if (threshold) value = kept ? value * (R)scale : R(0);                                          \
                out[at.at[1]] = store<T>(value);                                                                \
            }                                                                                                   \
        }                                                                                                       \
    }
FOR_FLOAT(DROPOUT)
