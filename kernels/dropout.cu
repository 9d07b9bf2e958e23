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
        // Two packs at a time, which take two counter blocks of words or, in half precision, four: the keys of the generator's
        // rounds are computed once for all of them.
        constexpr int V = 16 / sizeof(T), PACKS = 2, BLOCKS = PACKS * V / 4;
        uint64_t turns = grid.flags & VECTOR ? grid.numel / (PACKS * V) : 0;
        done = turns * BLOCKS;
#pragma unroll 1
        for (uint64_t i = thread_index(); i < turns; i += thread_count()) {
            Pack<T, V> from[PACKS], to[PACKS];
#pragma unroll
            for (int p = 0; p < PACKS; ++p) from[p] = read_pack<T, V>(x + (i * PACKS + p) * V);
            Block blocks[BLOCKS];
            philox(state, i * BLOCKS, blocks);
#pragma unroll
            for (int k = 0; k < PACKS * V; ++k) {
                to[k / V].elements[k % V] = store<T>(kept(blocks[k / 4].words[k % 4], load(from[k / V].elements[k % V])));
            }
#pragma unroll
            for (int p = 0; p < PACKS; ++p) write_pack(out + (i * PACKS + p) * V, to[p]);
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
