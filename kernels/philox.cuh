// The counter-based generator Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011),
// with the same counters and words as on the CPU.
#pragma once
#include "common.cuh"

struct Block {
    uint32_t words[4];
};

// The position as a seed and an offset.
__device__ inline RandomState absolute(const RandomState& state) {
    const GeneratorState* base = state.base;
    if (!base) return state;
    return RandomState{base->seed, base->offset + state.offset, nullptr};
}

// Counter block number `block` after an absolute position.
__device__ inline Block philox(const RandomState& state, uint64_t block) {
    uint64_t counter = state.offset + block;
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)state.seed, k1 = (uint32_t)(state.seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c0 = n0;
        c1 = (uint32_t)b;
        c2 = n2;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Block{{c0, c1, c2, c3}};
}

// A 64-bit draw: words 2 half (low) and 2 half + 1 (high).
__device__ inline uint64_t wide_word(const Block& block, int half) {
    return (uint64_t)block.words[2 * half] | (uint64_t)block.words[2 * half + 1] << 32;
}
