// Stable sort along a dimension of any length (bitonic tiles, then a merge sort), and searchsorted.
//
// Elements become integer keys that compare as they do, with NaN last and the two zeros equal. With its position
// appended, no two entries are equal, so every sort is stable. Blocks sort tiles, then runs are merged in pairs until
// one is left: each element finds its place by a binary search in the other run.
#include "common.cuh"

// `keys` of all: sorts tiles of 1024 elements into entries. One block per tile, 512 threads.
FAMILY(sort_tile, Sort sort, address x, address entries);
// `runs` of bits64: merges runs of `run` entries in pairs.
FAMILY(sort_merge, u64 lines, u64 n, u64 run, address from, address to);
// `out` of bits8 16 32 64.
FAMILY(sort_write, Sort sort, address entries, address x, address values, address indices);
// `find` of all.
FAMILY(searchsorted, Search search, address sorted, address values, address out);

constexpr uint32_t TILE = 1024;

struct Entry {
    uint64_t key, position;
};

__device__ inline bool before(const Entry& a, const Entry& b) {
    return a.key < b.key || (a.key == b.key && a.position < b.position);
}

__device__ inline uint64_t key_of(f64 v) {
    if (v != v) return UINT64_MAX;
    // Adding 0 turns -0 into 0. Negative floats grow as their bits shrink.
    uint64_t bits = bit_cast<uint64_t>(v + 0.0);
    return bits >> 63 ? ~bits : bits | (1ull << 63);
}
__device__ inline uint64_t key_of(f32 v) { return key_of((f64)v); }
template <typename I>
__device__ inline uint64_t key_of(I v) {
    return Bounds<I>::SIGNED ? (uint64_t)(i64)v ^ (1ull << 63) : (uint64_t)v;
}

// Bitonic sort by 512 threads. Slots past the end hold entries that sort after all others.
template <typename T>
__device__ inline void sort_tile(const Sort& p, const T* x, Entry* entries) {
    __shared__ Entry shared[TILE];
    uint64_t tiles = (p.n + TILE - 1) / TILE;
    for (uint64_t task = blockIdx.x; task < p.lines.numel * tiles; task += gridDim.x) {
        uint64_t line = task / tiles, start = (task - line * tiles) * TILE;
        Offsets<3> at = locate(p.lines, line);
        for (uint32_t k = threadIdx.x; k < TILE; k += blockDim.x) {
            uint64_t i = start + k;
            Entry entry = {UINT64_MAX, UINT64_MAX};
            if (i < p.n) {
                uint64_t key = key_of(load(x[at.at[0] + (int64_t)i * p.strides[0]]));
                entry = Entry{p.descending ? ~key : key, i};
            }
            shared[k] = entry;
        }
        __syncthreads();
        for (uint32_t size = 2; size <= TILE; size *= 2) {
            for (uint32_t reach = size / 2; reach > 0; reach /= 2) {
                for (uint32_t pair = threadIdx.x; pair < TILE / 2; pair += blockDim.x) {
                    uint32_t low = 2 * pair - (pair & (reach - 1)), high = low + reach;
                    bool ascending = (low & size) == 0;
                    Entry a = shared[low], b = shared[high];
                    if (before(b, a) == ascending) {
                        shared[low] = b;
                        shared[high] = a;
                    }
                }
                __syncthreads();
            }
        }
        for (uint32_t k = threadIdx.x; k < TILE; k += blockDim.x) {
            if (start + k < p.n) entries[line * p.n + start + k] = shared[k];
        }
        __syncthreads();
    }
}

#define SORT_TILE(name, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(512)                                                       \
        sort_tile_keys_##name(BY_VALUE Sort p, const T* x, Entry* entries) {                                \
        sort_tile(p, x, entries);                                                                           \
    }
FOR_ALL(SORT_TILE)

KERNEL sort_merge_runs_bits64(uint64_t lines, uint64_t n, uint64_t run, const Entry* from, Entry* to) {
    for (uint64_t i = thread_index(); i < lines * n; i += thread_count()) {
        uint64_t line = i / n, place = i - line * n, own = place / run;
        // The run to merge with, which may be short or missing.
        uint64_t other = own ^ 1, start = other * run, end = start + run;
        if (start > n) start = n;
        if (end > n) end = n;
        const Entry* row = from + line * n;
        Entry entry = row[place];
        uint64_t low = start, high = end;
        while (low < high) {
            uint64_t middle = low + (high - low) / 2;
            if (before(row[middle], entry)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        uint64_t first = (own < other ? own : other) * run;
        to[line * n + first + (place - own * run) + (low - start)] = entry;
    }
}

#define SORT_WRITE(name, T)                                                                                       \
    KERNEL sort_write_out_##name(BY_VALUE Sort p, const Entry* entries, const T* x, T* values, int64_t* indices) { \
        for (uint64_t i = thread_index(); i < p.lines.numel * p.n; i += thread_count()) {                         \
            uint64_t line = i / p.n, place = i - line * p.n;                                                      \
            Offsets<3> at = locate(p.lines, line);                                                                \
            int64_t position = (int64_t)entries[i].position;                                                      \
            values[at.at[1] + (int64_t)place * p.strides[1]] = x[at.at[0] + position * p.strides[0]];             \
            indices[at.at[2] + (int64_t)place * p.strides[2]] = position;                                         \
        }                                                                                                         \
    }
FOR_BITS(SORT_WRITE)

#define SEARCH(name, T)                                                                                           \
    KERNEL searchsorted_find_##name(BY_VALUE Search p, const T* sorted, const T* values, int64_t* out) {          \
        for (uint64_t i = thread_index(); i < p.grid.numel; i += thread_count()) {                                \
            Offsets<3> at = locate(p.grid, i);                                                                    \
            uint64_t key = key_of(load(values[at.at[1]])), low = 0, high = p.n;                                   \
            while (low < high) {                                                                                  \
                uint64_t middle = low + (high - low) / 2;                                                         \
                uint64_t other = key_of(load(sorted[at.at[0] + (int64_t)middle * p.stride]));                     \
                if (p.right ? other <= key : other < key) {                                                       \
                    low = middle + 1;                                                                             \
                } else {                                                                                          \
                    high = middle;                                                                                \
                }                                                                                                 \
            }                                                                                                     \
            out[at.at[2]] = (int64_t)low;                                                                         \
        }                                                                                                         \
    }
FOR_ALL(SEARCH)
