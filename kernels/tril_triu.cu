// tril and triu: keep one triangle of each matrix and zero the other.
#include "map.cuh"

// `keep` of bits8 16 32 64.
FAMILY(tril_triu, Grid<2> grid, address x, address out, Triangle shape);

#define TRIL_TRIU(name, T)                                                                                       \
    KERNEL tril_triu_keep_##name(BY_VALUE Grid<2> grid, const T* x, T* out, BY_VALUE Triangle shape) {           \
        for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {                                \
            Offsets<2> at = locate(grid, i);                                                                    \
            int64_t column = (int64_t)(i % shape.columns), row = (int64_t)(i / shape.columns % shape.rows);     \
            int64_t distance = column - row;                                                                    \
            bool kept = shape.upper ? distance >= shape.diagonal : distance <= shape.diagonal;                  \
            out[at.at[1]] = kept ? x[at.at[0]] : T{0};                                                          \
        }                                                                                                       \
    }
FOR_BITS(TRIL_TRIU)
