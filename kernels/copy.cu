// Copies between layouts, with or without a change of dtype.
#include "convert.cuh"
#include "map.cuh"

// `same` of bits8 16 32 64.
FAMILY(copy, Grid<2> grid, address x, address out);
// The operation is the dtype converted from, the dtype that converted to: all pairs that differ.
FAMILY(cast, Grid<2> grid, address x, address out);

#define COPY(name, T)                                                              \
    KERNEL copy_same_##name(BY_VALUE Grid<2> grid, const T* x, T* out) {           \
        map1<ALL>(grid, tensor(x), out, [](T value) { return value; });                 \
    }
FOR_BITS(COPY)

#define CAST(from, From, to, To)                                                               \
    KERNEL cast_##from##_##to(BY_VALUE Grid<2> grid, const From* x, To* out) {                 \
        map1<FEW>(grid, tensor(x), out, [](Compute<From> value) { return convert<To>(value); });    \
    }
CAST(f32, f32, f64, f64)
CAST(f32, f32, f16, f16)
CAST(f32, f32, bf16, bf16)
CAST(f32, f32, i64, i64)
CAST(f32, f32, i32, i32)
CAST(f32, f32, u8, u8)
CAST(f32, f32, bool, truth)
CAST(f64, f64, f32, f32)
CAST(f64, f64, f16, f16)
CAST(f64, f64, bf16, bf16)
CAST(f64, f64, i64, i64)
CAST(f64, f64, i32, i32)
CAST(f64, f64, u8, u8)
CAST(f64, f64, bool, truth)
CAST(f16, f16, f32, f32)
CAST(f16, f16, f64, f64)
CAST(f16, f16, bf16, bf16)
CAST(f16, f16, i64, i64)
CAST(f16, f16, i32, i32)
CAST(f16, f16, u8, u8)
CAST(f16, f16, bool, truth)
CAST(bf16, bf16, f32, f32)
CAST(bf16, bf16, f64, f64)
CAST(bf16, bf16, f16, f16)
CAST(bf16, bf16, i64, i64)
CAST(bf16, bf16, i32, i32)
CAST(bf16, bf16, u8, u8)
CAST(bf16, bf16, bool, truth)
CAST(i64, i64, f32, f32)
CAST(i64, i64, f64, f64)
CAST(i64, i64, f16, f16)
CAST(i64, i64, bf16, bf16)
CAST(i64, i64, i32, i32)
CAST(i64, i64, u8, u8)
CAST(i64, i64, bool, truth)
CAST(i32, i32, f32, f32)
CAST(i32, i32, f64, f64)
CAST(i32, i32, f16, f16)
CAST(i32, i32, bf16, bf16)
CAST(i32, i32, i64, i64)
CAST(i32, i32, u8, u8)
CAST(i32, i32, bool, truth)
CAST(u8, u8, f32, f32)
CAST(u8, u8, f64, f64)
CAST(u8, u8, f16, f16)
CAST(u8, u8, bf16, bf16)
CAST(u8, u8, i64, i64)
CAST(u8, u8, i32, i32)
CAST(u8, u8, bool, truth)
CAST(bool, truth, f32, f32)
CAST(bool, truth, f64, f64)
CAST(bool, truth, f16, f16)
CAST(bool, truth, bf16, bf16)
CAST(bool, truth, i64, i64)
CAST(bool, truth, i32, i32)
CAST(bool, truth, u8, u8)
