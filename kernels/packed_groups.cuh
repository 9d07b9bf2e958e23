// Channels, rows or columns of dense tensors as groups of elements (groups.cuh has the general case), 16 bytes at a
// time: along memory (a pack has adjacent elements of one group) or across it (a pack has one element of each of
// several adjacent groups).
#pragma once
#include <type_traits>

#include "fold.cuh"
#include "map.cuh"

// The part of a group, or of as many groups as a pack has elements, that a team works on.
struct PackedPart {
    uint32_t group, split;
    // The packs from `begin` to `end` (exclusive); empty if no group is left.
    uint32_t begin, end;
    bool busy;
    // Offset of the group in elements.
    int64_t at;
};

__device__ inline uint32_t parts_of(const PackedGroups& p) { return (uint32_t)p.count.extent * p.splits; }

__device__ inline PackedPart part_of(const PackedGroups& p, uint32_t task) {
    PackedPart part;
    part.busy = task < parts_of(p);
    // Adjacent teams have adjacent groups.
    part.split = part.busy ? (uint32_t)divide(task, p.count, false) : 0;
    part.group = part.busy ? task - part.split * (uint32_t)p.count.extent : 0;
    part.begin = part.split * p.chunk;
    part.end = part.begin + p.chunk < p.packs ? part.begin + p.chunk : p.packs;
    if (!part.busy) part.end = part.begin;
    part.at = (int64_t)part.group * p.group_stride;
    return part;
}

// Packs that a thread reads before it uses any: their offsets in elements, and their indices in the group.
template <int N>
struct PackPlaces {
    static constexpr int COUNT = N;
    int64_t at[N];
    uint32_t index[N];
};

template <bool Across, int N>
__device__ inline PackPlaces<N> places_of(const PackedGroups& p, const Team& team, const PackedPart& part, uint32_t i) {
    PackPlaces<N> places;
#pragma unroll
    for (int k = 0; k < N; ++k) {
        uint32_t pack = i + (uint32_t)k * team.size, run = Across ? 0 : (uint32_t)divide(pack, p.run, false);
        uint32_t inside = pack - run * (uint32_t)p.run.extent;
        places.index[k] = pack;
        places.at[k] = part.at + (Across ? pack * (int64_t)p.step : run * p.run_stride + inside * (int64_t)p.step);
    }
    return places;
}

// Calls `each` for the packs of a part that belong to a thread, first several at once and then the rest one by one.
template <bool Across, int AtOnce, typename Each>
__device__ inline void walk_packs(const PackedGroups& p, const Team& team, const PackedPart& part, Each each) {
    uint32_t i = part.begin + team.lane;
#pragma unroll 1
    for (; i + (AtOnce - 1) * team.size < part.end; i += AtOnce * team.size) {
        each(places_of<Across, AtOnce>(p, team, part, i));
    }
#pragma unroll 1
    for (; i < part.end; i += team.size) each(places_of<Across, 1>(p, team, part, i));
}
