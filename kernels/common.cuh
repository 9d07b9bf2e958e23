// Used by every kernel: element types, the mapping of positions to offsets, and error reports (`Status`).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

#include "params.cuh"

// Declares a family: kernels `family_op_dtype`, which take these parameters. The build script generates the typed
// launch from this, and a build with nvcc checks it against the compiled kernels. A parameter is a struct of
// params.cuh, an `address`, a `Number`, or `u64 i64 u32 f64`.
#define FAMILY(name, ...) static_assert(true, #name)

// A parameter struct. It is read in place: a copy that is indexed at run time would go to local memory.
#define BY_VALUE const __grid_constant__

#define KERNEL extern "C" __global__ void __launch_bounds__(256)
// A kernel whose registers are allocated as if this many blocks had to fit a multiprocessor. By default ptxas may spill
// a few bytes rather than let fewer than eight fit.
#define KERNEL_OF(blocks) extern "C" __global__ void __launch_bounds__(256, blocks)

// ---- element types as they lie in memory; `Compute` is what they are computed in ----

typedef int64_t i64;
typedef int32_t i32;
typedef uint8_t u8;
typedef float f32;
typedef double f64;
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};
// A truth value. Any byte but 0 is true; 0 and 1 are written.
struct truth {
    uint8_t byte;
};
struct bits8 {
    uint8_t bits;
};
struct bits16 {
    uint16_t bits;
};
struct bits32 {
    uint32_t bits;
};
struct bits64 {
    uint64_t bits;
};

template <typename To, typename From>
__device__ inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same number of bits");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

// `significand`: how many bits a float's significand has, with the implicit one.
template <typename T>
struct Element {
    typedef T Compute;
    static constexpr int significand = 24;
    static __device__ T load(T value) { return value; }
    static __device__ T store(T value) { return value; }
};

template <>
struct Element<f16> {
    typedef f32 Compute;
    static constexpr int significand = 11;
    static __device__ f32 load(f16 value) { return __half2float(__ushort_as_half(value.bits)); }
    static __device__ f16 store(f32 value) { return f16{__half_as_ushort(__float2half_rn(value))}; }
};

template <>
struct Element<bf16> {
    typedef f32 Compute;
    static constexpr int significand = 8;
    static __device__ f32 load(bf16 value) { return bit_cast<f32>((uint32_t)value.bits << 16); }
    static __device__ bf16 store(f32 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
        // bf16 has no conversion instruction here; this branch-free arithmetic is shorter than the header's conversion.
        uint32_t bits = bit_cast<uint32_t>(value), rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        return bf16{(uint16_t)(value != value ? (bits >> 16) | 0x40 : rounded)};
#else
        return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#endif
    }
};

template <>
struct Element<truth> {
    typedef u8 Compute;
    static __device__ u8 load(truth value) { return value.byte != 0; }
    static __device__ truth store(u8 value) { return truth{(uint8_t)(value != 0)}; }
};

template <typename T>
using Compute = typename Element<T>::Compute;

template <typename T>
__device__ inline Compute<T> load(T value) {
    return Element<T>::load(value);
}

template <typename T>
__device__ inline T store(Compute<T> value) {
    return Element<T>::store(value);
}

// Calls X(name, type, …) for each dtype of a group, with any further arguments.
#define FOR_DIRECT(X, ...) X(f32, f32, ##__VA_ARGS__) X(f64, f64, ##__VA_ARGS__)
#define FOR_HALF(X, ...) X(f16, f16, ##__VA_ARGS__) X(bf16, bf16, ##__VA_ARGS__)
#define FOR_INT(X, ...) X(i64, i64, ##__VA_ARGS__) X(i32, i32, ##__VA_ARGS__) X(u8, u8, ##__VA_ARGS__)
#define FOR_FLOAT(X, ...) FOR_DIRECT(X, ##__VA_ARGS__) FOR_HALF(X, ##__VA_ARGS__)
#define FOR_ALL(X, ...) FOR_FLOAT(X, ##__VA_ARGS__) FOR_INT(X, ##__VA_ARGS__) X(bool, truth, ##__VA_ARGS__)
#define FOR_BITS(X) X(bits8, bits8) X(bits16, bits16) X(bits32, bits32) X(bits64, bits64)

// Checks that names and sizes are those of the table of dtypes, in its order.
namespace dtypes {
struct Row {
    const char* name;
    uint64_t size;
};
#define FLOAT(variant, name, torch, size, ...) {#name, size},
#define HALF(variant, name, torch, size, ...) {#name, size},
#define INT(variant, name, torch, size, ...) {#name, size},
#define BOOL(variant, name, torch, size, ...) {#name, size},
constexpr Row TABLE[] = {
#include "dtype_table.cuh"
};
#undef FLOAT
#undef HALF
#undef INT
#undef BOOL
#define ROW(name, T) {#name, sizeof(T)},
constexpr Row TYPES[] = {FOR_ALL(ROW)};
#undef ROW
constexpr bool same_name(const char* a, const char* b) {
    while (*a && *a == *b) ++a, ++b;
    return *a == *b;
}
constexpr bool same_rows() {
    if (sizeof(TABLE) != sizeof(TYPES)) return false;
    for (uint64_t i = 0; i < sizeof(TABLE) / sizeof(Row); ++i)
        if (TABLE[i].size != TYPES[i].size || !same_name(TABLE[i].name, TYPES[i].name)) return false;
    return true;
}
static_assert(same_rows(), "FOR_ALL has the dtypes of dtype_table.cuh");
}  // namespace dtypes

// The smallest and the largest value of an integer type.
template <typename I>
struct Bounds {
    static constexpr bool SIGNED = I(-1) < I(0);
    static constexpr I LOW = SIGNED ? (I)((uint64_t)1 << (8 * sizeof(I) - 1)) : I(0);
    static constexpr I HIGH = (I)~LOW;
};

// The value of a `Number`: 64 bits of an f64 for floats, of an i64 for the others.
template <typename C>
struct Number {
    static __device__ C value(uint64_t bits) { return (C)(int64_t)bits; }
};
template <>
struct Number<f32> {
    static __device__ f32 value(uint64_t bits) { return (f32)bit_cast<f64>(bits); }
};
template <>
struct Number<f64> {
    static __device__ f64 value(uint64_t bits) { return bit_cast<f64>(bits); }
};

// ---- walking over grids ----

__device__ inline uint64_t thread_index() { return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline uint64_t thread_count() { return (uint64_t)gridDim.x * blockDim.x; }

__device__ inline uint64_t divide(uint64_t n, const Dim& by, bool wide) {
    if (wide) return (__umul64hi(n, by.wide) + n) >> by.shift;
    return (__umulhi((uint32_t)n, by.multiplier) + (uint32_t)n) >> by.shift;
}

// A position's offset in each operand.
template <int N>
struct Offsets {
    int64_t at[N];
};

template <int N>
__device__ inline Offsets<N> locate(const Grid<N>& grid, uint64_t position) {
    Offsets<N> offsets;
#pragma unroll
    for (int k = 0; k < N; ++k) offsets.at[k] = 0;
    uint64_t rest = position;
#pragma unroll 1
    for (int d = (int)grid.rank - 1; d > 0; --d) {
        const Dim& dim = grid.dims[d];
        uint64_t quotient = divide(rest, dim, grid.flags & WIDE);
        int64_t index = (int64_t)(rest - quotient * dim.extent);
#pragma unroll
        for (int k = 0; k < N; ++k) offsets.at[k] += index * grid.strides[k][d];
        rest = quotient;
    }
#pragma unroll
    for (int k = 0; k < N; ++k) offsets.at[k] += (int64_t)rest * grid.strides[k][0];
    return offsets;
}

// ---- status records ----

// Keeps the first report. The host reads it the next time that it waits for the device.
__device__ inline void report(Status* status, uint32_t code, int64_t value, int64_t bound) {
    if (atomicCAS(&status->code, 0u, code) == 0u) {
        status->value = value;
        status->bound = bound;
    }
}
