// where_cond: a where the condition is true, else b.
#include "map.cuh"

// `choose` of bits8 16 32 64. A null operand is the element with the bits x or y.
FAMILY(where_cond, Grid<4> grid, address condition, address a, address b, address out, u64 x, u64 y);

#define WHERE_COND(name, T)                                                                                         \
    KERNEL where_cond_choose_##name(BY_VALUE Grid<4> grid, const truth* condition, const T* a, const T* b, T* out,   \
                               uint64_t x, uint64_t y) {                                                        \
        Input<T> first{a, T{(decltype(T::bits))x}}, second{b, T{(decltype(T::bits))y}};                         \
        map3<ALL>(grid, tensor(condition), first, second, out, [](u8 c, T a, T b) { return c ? a : b; });            \
    }
FOR_BITS(WHERE_COND)
