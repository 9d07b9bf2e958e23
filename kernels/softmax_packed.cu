// Softmax and its logarithm along rows without gaps, and their gradients, 16 bytes at a time: a team of threads holds a row in
// registers, and so reads it once. softmax.cu has all other lines.
#include "fold.cuh"
#include "map.cuh"
#include "real.cuh"

// `plain log` of f32 f16 bf16. Blocks: `PackedRows::blocks`.
FAMILY(softmax_packed, PackedRows rows, address x, address out);
FAMILY(softmax_packed_grad, PackedRows rows, address grad, address y, address out);

// The packs of a row that a thread has.
template <typename T>
struct RowPart {
    static constexpr int V = 16 / sizeof(T);
    Compute<T> values[ROW_PACKS][V];

    // What is not there counts as `none`.
    __device__ void read(const PackedRows& p, const Team& team, const T* row, bool busy, Compute<T> none) {
        Pack<T, V> packs[ROW_PACKS];
#pragma unroll
        for (int k = 0; k < ROW_PACKS; ++k) {
            uint32_t i = team.lane + (uint32_t)k * team.size;
            if (busy && i < p.packs) packs[k] = read_pack<T, V>(row + i * V);
        }
#pragma unroll
        for (int k = 0; k < ROW_PACKS; ++k) {
            bool there = busy && team.lane + (uint32_t)k * team.size < p.packs;
#pragma unroll
            for (int v = 0; v < V; ++v) values[k][v] = there ? load(packs[k].elements[v]) : none;
        }
    }

    template <typename F>
    __device__ void each(F f) {
#pragma unroll
        for (int k = 0; k < ROW_PACKS; ++k) {
#pragma unroll
            for (int v = 0; v < V; ++v) f(values[k][v], k, v);
        }
    }

    __device__ void write(const PackedRows& p, const Team& team, T* row, bool busy) const {
#pragma unroll
        for (int k = 0; k < ROW_PACKS; ++k) {
            uint32_t i = team.lane + (uint32_t)k * team.size;
            if (!busy || i >= p.packs) continue;
            Pack<T, V> pack;
#pragma unroll
            for (int v = 0; v < V; ++v) pack.elements[v] = store<T>(values[k][v]);
            write_pack(row + i * V, pack);
        }
    }
};

template <typename T, bool Log>
__device__ inline void softmax_packed(const PackedRows& p, const T* x, T* out) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
#pragma unroll 1
    for (uint32_t first = blockIdx.x * team.teams; first < p.count; first += gridDim.x * team.teams) {
        int64_t row = first + team.index;
        bool busy = row < p.count;
        RowPart<T> part;
        part.read(p, team, x + row * p.strides[0], busy, -(R)INFINITY);
        R largest = -(R)INFINITY, sum = R(0);
        // NaN gets into the sum, whatever the largest is.
        part.each([&](R& value, int, int) { largest = fmaxf(largest, value); });
        largest = fold_team(team, shared, largest, [](R a, R b) { return fmaxf(a, b); });
        part.each([&](R& value, int, int) {
            R distance = value - largest, weight = power<T>(distance);
            sum += weight;
            value = Log ? distance : weight;
        });
        sum = fold_team(team, shared, sum, [](R a, R b) { return a + b; });
        R last = Log ? real::log(sum) : R(1) / sum;
        part.each([&](R& value, int, int) { value = Log ? value - last : value * last; });
        part.write(p, team, out + row * p.strides[1], busy);
    }
}

template <typename T, bool Log>
__device__ inline void softmax_packed_grad(const PackedRows& p, const T* grad, const T* y, T* out) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
#pragma unroll 1
    for (uint32_t first = blockIdx.x * team.teams; first < p.count; first += gridDim.x * team.teams) {
        int64_t row = first + team.index;
        bool busy = row < p.count;
        RowPart<T> g, value;
        g.read(p, team, grad + row * p.strides[0], busy, R(0));
        value.read(p, team, y + row * p.strides[1], busy, R(0));
        R sum = R(0);
        g.each([&](R& slope, int k, int v) { sum += Log ? slope : slope * value.values[k][v]; });
        sum = fold_team(team, shared, sum, [](R a, R b) { return a + b; });
        g.each([&](R& slope, int k, int v) {
            R own = value.values[k][v];
            slope = Log ? slope - power<T>(own) * sum : own * (slope - sum);
        });
        g.write(p, team, out + row * p.strides[2], busy);
    }
}

#define SOFTMAX(op, log, name, T)                                                                                    \
    KERNEL softmax_packed_##op##_##name(BY_VALUE PackedRows p, const T* x, T* out) {                                 \
        softmax_packed<T, log>(p, x, out);                                                                           \
    }                                                                                                                \
    KERNEL softmax_packed_grad_##op##_##name(BY_VALUE PackedRows p, const T* grad, const T* y, T* out) {             \
        softmax_packed_grad<T, log>(p, grad, y, out);                                                                \
    }
#define BOTH(name, T)                     \
    SOFTMAX(plain, false, name, T)        \
    SOFTMAX(log, true, name, T)
BOTH(f32, f32)
FOR_HALF(BOTH)
