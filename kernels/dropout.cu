// Dropout from a seed: no mask is stored, the gradient is the same function.
#include "map.cuh"
#include "philox.cuh"

// `apply` of float.
FAMILY(dropout, Grid<2> grid, address x, address out, RandomState state, u64 threshold, f64 scale);

// Four elements share a counter block. Those whose words are below the threshold are dropped, NaN too.
template <typename T>
__device__ inline void dropout(const Grid<2>& grid, const T* x, T* out, const RandomState& given, uint64_t threshold,
                               f64 scale) {
    typedef Compute<T> R;
    // Without dropping even the product with 1 is left out, as on the CPU.
    if (threshold == 0) return map1<FEW>(grid, tensor(x), out, [](R value) { return value; });
    RandomState state = absolute(given);
    R factor = (R)scale;
    // The threshold is at most 2^32.
    uint32_t last = (uint32_t)(threshold - 1);
    auto kept = [&](uint32_t word, R value) { return word <= last ? R(0) : value * factor; };
    uint64_t done = 0;
    if constexpr (sizeof(T) <= 4) {
        // Two blocks at a time, which are one pack of half precision or two.
        constexpr int V = 16 / sizeof(T), PACKS = 8 / V;
        uint64_t pairs = grid.flags & VECTOR ? grid.numel / 8 : 0;
        done = 2 * pairs;
#pragma unroll 1
        for (uint64_t i = thread_index(); i < pairs; i += thread_count()) {
            Pack<T, V> packs[PACKS];
#pragma unroll
            for (int p = 0; p < PACKS; ++p) packs[p] = read_pack<T, V>(x + 8 * i + p * V);
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                Block block = philox(state, 2 * i + b);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    T& element = packs[(4 * b + k) / V].elements[(4 * b + k) % V];
                    element = store<T>(kept(block.words[k], load(element)));
                }
            }
#pragma unroll
            for (int p = 0; p < PACKS; ++p) write_pack(out + 8 * i + p * V, packs[p]);
        }
    }
#pragma unroll 1
    for (uint64_t b = done + thread_index(); b * 4 < grid.numel; b += thread_count()) {
        Block block = philox(state, b);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (b * 4 + k >= grid.numel) break;
            Offsets<2> at = locate(grid, b * 4 + k);
            out[at.at[1]] = store<T>(kept(block.words[k], load(x[at.at[0]])));
        }
    }
}

#define DROPOUT(name, T)                                                                                        \
    KERNEL dropout_apply_##name(BY_VALUE Grid<2> grid, const T* x, T* out, BY_VALUE RandomState given,          \
                                uint64_t threshold, f64 scale) {                                                \
        dropout<T>(grid, x, out, given, threshold, scale);                                                      \
    }
FOR_FLOAT(DROPOUT)
