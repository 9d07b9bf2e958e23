// Copies between layouts, with or without a change of dtype.
#include "convert.cuh"
#include "map.cuh"

// `same` of bits8 16 32 64.
FAMILY(copy, Grid<2> grid, address x, address out);
// The operation is the source dtype, the dtype is the target: all pairs that differ.
FAMILY(cast, Grid<2> grid, address x, address out);

#define COPY(name, T)                                                              \
    KERNEL copy_same_##name(BY_VALUE Grid<2> grid, const T* x, T* out) {           \
        map1<ALL>(grid, tensor(x), out, [](T value) { return value; });                 \
    }
FOR_BITS(COPY)

#define CAST(to, To, from, From)                                                               \
    KERNEL cast_##from##_##to(BY_VALUE Grid<2> grid, const From* x, To* out) {                 \
        map1<FEW>(grid, tensor(x), out, [](Compute<From> value) { return convert<To>(value); });    \
    }

// CAST, but for a dtype and itself: nothing where `SAME_from_to` is there, which gives a second argument.
#define SAME_f32_f32 , NOTHING
#define SAME_f64_f64 , NOTHING
#define SAME_f16_f16 , NOTHING
#define SAME_bf16_bf16 , NOTHING
#define SAME_i64_i64 , NOTHING
#define SAME_i32_i32 , NOTHING
#define SAME_u8_u8 , NOTHING
#define SAME_bool_bool , NOTHING
#define NOTHING(to, To, from, From)
#define SECOND(first, second, ...) second
#define CHOOSE(...) SECOND(__VA_ARGS__, CAST, )
#define CAST_UNLESS_SAME(to, To, from, From) CHOOSE(SAME_##from##_##to)(to, To, from, From)

#define FLOAT(variant, from, ...) FOR_ALL(CAST_UNLESS_SAME, from, from)
#define HALF(variant, from, ...) FOR_ALL(CAST_UNLESS_SAME, from, from)
#define INT(variant, from, ...) FOR_ALL(CAST_UNLESS_SAME, from, from)
#define BOOL(variant, from, ...) FOR_ALL(CAST_UNLESS_SAME, from, truth)
#include "dtype_table.cuh"
