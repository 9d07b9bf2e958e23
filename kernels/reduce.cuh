// Reductions over any dimensions of any layout, in one launch or in two where few results have many elements.
//
// An operation has an accumulator A, `none()`, `step(a, x)` for an element, `merge(a, b)`, and `result(a, p)`.
#pragma once
#include "fold.cuh"

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
