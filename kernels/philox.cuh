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

// N counter blocks from number `first` after an absolute position. They go through the rounds side by side, because they
// have the keys in common.
template <int N>
__device__ inline void philox(const RandomState& state, uint64_t first, Block (&blocks)[N]) {
    uint32_t k0 = (uint32_t)state.seed, k1 = (uint32_t)(state.seed >> 32);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        uint64_t counter = state.offset + first + i;
        blocks[i] = Block{{(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0}};
    }
#pragma unroll
    for (int round = 0; round < 10; ++round) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            uint32_t(&c)[4] = blocks[i].words;
            uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
            blocks[i] = Block{{(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a}};
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

// Counter block number `block` after an absolute position.
__device__ inline Block philox(const RandomState& state, uint64_t block) {
    Block blocks[1];
    philox(state, block, blocks);
    return blocks[0];
}

// A 64-bit draw: words 2 half (low) and 2 half + 1 (high).
__device__ inline uint64_t wide_word(const Block& block, int half) {
    return (uint64_t)block.words[2 * half] | (uint64_t)block.words[2 * half + 1] << 32;
}
