// Filling with one bit pattern, and with arithmetic sequences.
#include "convert.cuh"
#include "map.cuh"

// `value` of bits8 16 32 64.
FAMILY(fill, Grid<1> grid, address out, u64 bits);
// `float` and `int` (the kind of the numbers) into all.
FAMILY(arange, Grid<1> grid, address out, Number start, Number step);

template <typename T>
__device__ void fill(const Grid<1>& grid, T* out, T value) {
    constexpr int V = 16 / sizeof(T);
    uint64_t n = grid.numel, step = thread_count(), i = thread_index();
    if (grid.flags & VECTOR) {
        Pack<T, V> pack;
#pragma unroll
        for (int v = 0; v < V; ++v) pack.elements[v] = value;
        for (uint64_t p = i; p < n / V; p += step) write_pack(out + p * V, pack);
        i += n / V * V;
    }
    for (; i < n; i += step) out[locate(grid, i).at[0]] = value;
}

#define FILL(name, T)                                                             \
    KERNEL fill_value_##name(BY_VALUE Grid<1> grid, T* out, uint64_t bits) {      \
        fill(grid, out, T{(decltype(T::bits))bits});                              \
    }
FOR_BITS(FILL)

// Element i is start + i * step, in f64 or wrapping i64.
#define ARANGE(name, T)                                                                             \
    KERNEL arange_float_##name(BY_VALUE Grid<1> grid, T* out, uint64_t start, uint64_t step) {        \
        for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {                    \
            f64 value = bit_cast<f64>(start) + (f64)(int64_t)i * bit_cast<f64>(step);               \
            out[locate(grid, i).at[0]] = store<T>(convert<T>(value));                               \
        }                                                                                           \
    }                                                                                               \
    KERNEL arange_int_##name(BY_VALUE Grid<1> grid, T* out, uint64_t start, uint64_t step) {          \
        for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {                    \
            int64_t value = (int64_t)(start + i * step);                                            \
            out[locate(grid, i).at[0]] = store<T>(convert<T>(value));                               \
        }                                                                                           \
    }
FOR_ALL(ARANGE)
