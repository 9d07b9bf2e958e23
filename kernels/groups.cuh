// Channels, rows or columns as groups of elements, each processed by one or several teams of threads.
#pragma once
#include "fold.cuh"

// Elements that a thread loads before it uses any, so that it waits for memory once for all of them; as many as there
// are registers for.
template <typename T>
constexpr int AT_ONCE = sizeof(T) == 8 ? 2 : 4;

// The part of a group that a team processes.
struct Part {
    uint64_t group, split;
    // Elements `begin..end`; empty if there is no group left.
    uint64_t begin, end;
    bool busy;
    // The offset of the group's first element in each operand.
    int64_t at[3];
};

__device__ inline uint64_t parts_of(const Groups& p) { return p.count.extent * p.splits; }

__device__ inline Part part_of(const Groups& p, uint64_t task) {
    Part part;
    part.busy = task < parts_of(p);
    // Neighboring teams take neighboring groups.
    part.split = part.busy ? divide(task, p.count, true) : 0;
    part.group = part.busy ? task - part.split * p.count.extent : 0;
    part.begin = part.split * p.chunk;
    part.end = part.begin + p.chunk < p.inner.numel ? part.begin + p.chunk : p.inner.numel;
    if (!part.busy) part.end = part.begin;
#pragma unroll
    for (int k = 0; k < 3; ++k) part.at[k] = (int64_t)part.group * p.strides[k];
    return part;
}

// Calls `each(first, count, places)` for the elements of a part that belong to a thread: the k-th of up to AT_ONCE<T>
// is element first + k * team.size of the group.
template <typename T, typename Each>
__device__ inline void walk(const Groups& p, const Team& team, const Part& part, Each each) {
#pragma unroll 1
    for (uint64_t i = part.begin + team.lane; i < part.end; i += (uint64_t)AT_ONCE<T> * team.size) {
        Offsets<3> places[AT_ONCE<T>];
        int count = 0;
#pragma unroll
        for (int k = 0; k < AT_ONCE<T>; ++k) {
            uint64_t element = i + (uint64_t)k * team.size;
            if (element < part.end) {
                places[k] = locate(p.inner, element);
                count = k + 1;
            }
        }
        each(i, count, places);
    }
}
