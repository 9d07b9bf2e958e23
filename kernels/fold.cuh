// Reductions across the threads of a team (a power of two of a block's threads) through shared memory, in an order that
// depends on the team's size only.
#pragma once
#include "common.cuh"

// A thread's place in a block of 256 that is divided into teams of 2^log2 lanes.
struct Team {
    uint32_t size;   // lanes
    uint32_t lane;
    uint32_t index;  // of the team in its block
    uint32_t teams;  // of a block
};

__device__ inline Team team_of(Lanes lanes) {
    Team team;
    team.size = 1u << lanes.log2;
    team.teams = 256u >> lanes.log2;
    if (lanes.across) {
        team.index = threadIdx.x & (team.teams - 1);
        team.lane = threadIdx.x / team.teams;
    } else {
        team.lane = threadIdx.x & (team.size - 1);
        team.index = threadIdx.x >> lanes.log2;
    }
    return team;
}

// Merges all lanes' values, and returns the result to every lane. All threads of the block must call it.
template <typename A, typename Merge>
__device__ inline A fold_team(const Team& team, A* shared, A value, Merge merge) {
    A* row = shared + team.index * team.size;
    row[team.lane] = value;
    __syncthreads();
    for (uint32_t width = team.size / 2; width > 0; width /= 2) {
        if (team.lane < width) row[team.lane] = merge(row[team.lane], row[team.lane + width]);
        __syncthreads();
    }
    A result = row[0];
    // The next call writes to the same shared memory.
    __syncthreads();
    return result;
}

// Elements that a thread reduces before it merges them into its total: the rounding error of a sum then grows with the
// square root of both counts instead of their product.
constexpr int BATCH = 32;
