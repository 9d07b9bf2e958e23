// One launch over many tensors, each of which is divided into blocks of OPTIM_BLOCK elements.
#pragma once
#include <type_traits>

#include "map.cuh"

// The part of a tensor that a block works on.
struct TensorBlock {
    // The number of the tensor, its first element here, and how many there are.
    int slot;
    uint64_t start;
    uint32_t count;
    // 16 bytes at a time are possible.
    bool packed;
};

// Finds the tensor of a block: the last one that begins there or before.
template <typename Params>
__device__ inline TensorBlock tensor_block(const Params& p) {
    int low = 0, high = (int)p.slots - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (p.slot[middle].first_block <= blockIdx.x) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const auto& slot = p.slot[low];
    uint32_t next = low + 1 < (int)p.slots ? p.slot[low + 1].first_block : p.blocks;
    TensorBlock block;
    block.slot = low;
    block.start = (uint64_t)(blockIdx.x - slot.first_block) * OPTIM_BLOCK;
    block.count = blockIdx.x + 1 < next ? OPTIM_BLOCK : blockIdx.x < next ? slot.tail & OPTIM_SLOT_TAIL : 0;
    block.packed = slot.tail & OPTIM_SLOT_PACKED;
    return block;
}

// Calls `each(width, i)` for the elements of a block: with a width of V for V of them from the i-th on, or of 1.
template <int V, typename Each>
__device__ inline void for_elements(const TensorBlock& block, Each each) {
    uint32_t packs = block.packed ? block.count / V * V : 0;
#pragma unroll 1
    for (uint32_t i = threadIdx.x * V; i < packs; i += blockDim.x * V) each(std::integral_constant<int, V>{}, i);
#pragma unroll 1
    for (uint32_t i = packs + threadIdx.x; i < block.count; i += blockDim.x) each(std::integral_constant<int, 1>{}, i);
}

// As many elements as 16 bytes hold, or as there are.
template <int V, typename T>
constexpr int PACK_OF = sizeof(T) * V > 16 ? 16 / (int)sizeof(T) : V;

template <int V, typename T>
__device__ inline void read_elements(const T* from, Compute<T> (&out)[V]) {
    constexpr int P = PACK_OF<V, T>;
#pragma unroll
    for (int first = 0; first < V; first += P) {
        Pack<T, P> pack = read_pack<T, P>(from + first);
#pragma unroll
        for (int v = 0; v < P; ++v) out[first + v] = load(pack.elements[v]);
    }
}

template <int V, typename T>
__device__ inline void write_elements(T* to, const Compute<T> (&values)[V]) {
    constexpr int P = PACK_OF<V, T>;
#pragma unroll
    for (int first = 0; first < V; first += P) {
        Pack<T, P> pack;
#pragma unroll
        for (int v = 0; v < P; ++v) pack.elements[v] = store<T>(values[first + v]);
        write_pack(to + first, pack);
    }
}
