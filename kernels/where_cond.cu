// where_cond: a where the condition holds, else b.
#include "map.cuh"

FAMILY(where_cond);

#define WHERE_COND(name, T)                                                                                         \
    KERNEL where_cond_choose_##name(BY_VALUE Grid<4> grid, const truth* condition, const T* a, const T* b, T* out,   \
                               uint64_t x, uint64_t y) {                                                        \
        Input<T> first{a, T{(decltype(T::bits))x}}, second{b, T{(decltype(T::bits))y}};                         \
        map3<ALL>(grid, tensor(condition), first, second, out, [](u8 c, T a, T b) { return c ? a : b; });            \
    }
FOR_BITS(WHERE_COND)
