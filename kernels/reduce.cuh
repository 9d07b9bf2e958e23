// Reductions over any dimensions of any layout, in one launch or in two where few results have many elements.
//
// An operation has an accumulator A, `none()`, `step(a, x)` for an element, `merge(a, b)`, and `result(a, p)`.
#pragma once
#include "fold.cuh"

// Elements read at once where the place of the next is known.
constexpr int LOADS = 8;

// Folds BATCH elements, `step` apart in memory, and moves past them.
template <typename Op, typename T>
__device__ inline typename Op::A batch_of(const T*& from, int64_t step, uint64_t& i, uint64_t size) {
    typename Op::A batch = Op::none();
#pragma unroll 1
    for (int turn = 0; turn < BATCH / LOADS; ++turn) {
        T values[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; ++k) values[k] = from[k * step];
#pragma unroll
        for (int k = 0; k < LOADS; ++k) batch = Op::step(batch, load(values[k]), (int64_t)(i + k * size));
        from += LOADS * step;
        i += LOADS * size;
    }
    return batch;
}

template <typename Op, typename T, typename Finish>
__device__ inline void reduce(const Reduce& p, const T* x, typename Op::A* partial, Finish finish) {
    typedef typename Op::A A;
    __shared__ char memory[256 * sizeof(A)] __attribute__((aligned(8)));
    A* shared = reinterpret_cast<A*>(memory);
    Team team = team_of(p.lanes);
    bool second = p.stage == REDUCE_SECOND;
    uint64_t splits = second ? 1 : p.splits, tasks = p.outer.numel * splits;
    // All threads of a block stay in the loop equally long, so that all of them reach the barriers.
    for (uint64_t start = (uint64_t)blockIdx.x * team.teams; start < tasks; start += (uint64_t)gridDim.x * team.teams) {
        uint64_t task = start + team.index;
        bool busy = task < tasks;
        // Neighboring teams take neighboring results: across memory, neighboring elements belong to these.
        uint64_t split = divide(task, p.results, true), result = task - split * p.outer.numel;
        A total = Op::none();
        Offsets<3> place;
        if (busy) {
            place = locate(p.outer, result);
            if (second) {
                const A* from = partial + result * p.splits;
                for (uint64_t i = team.lane; i < p.splits; i += team.size) total = Op::merge(total, from[i]);
            } else {
                uint64_t i = split * p.chunk, end = i + p.chunk;
                if (end > p.inner.numel) end = p.inner.numel;
                i += team.lane;
                if (sizeof(A) <= 12 && p.inner.rank == 1) {
                    // Equal steps: BATCH elements at a time, LOADS of them read before any is used. (With larger
                    // accumulators there are not enough registers.)
                    uint64_t size = team.size;
                    int64_t step = (int64_t)size * p.inner.strides[0][0];
                    const T* from = x + (place.at[0] + (int64_t)i * p.inner.strides[0][0]);
#pragma unroll 1
                    while (i + (BATCH - 1) * size < end) {
                        A batch = batch_of<Op>(from, step, i, size);
                        total = Op::merge(total, batch);
                    }
                }
                while (i < end) {
                    A batch = Op::none();
                    for (int k = 0; k < BATCH && i < end; ++k, i += team.size) {
                        batch = Op::step(batch, load(x[place.at[0] + locate(p.inner, i).at[0]]), (int64_t)i);
                    }
                    total = Op::merge(total, batch);
                }
            }
        }
        total = fold_team(team, shared, total, [](A a, A b) { return Op::merge(a, b); });
        if (busy && team.lane == 0) {
            if (p.stage == REDUCE_FIRST) {
                partial[result * p.splits + split] = total;
            } else {
                finish(total, place);
            }
        }
    }
}
