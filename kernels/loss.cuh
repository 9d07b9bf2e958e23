// Sums the losses of a block's threads, in f64 and in a fixed order, and finishes the reduced loss.
#pragma once
#include "fold.cuh"

struct Sums {
    f64 loss, weight;
};

__device__ inline Sums add_sums(Sums a, Sums b) { return Sums{a.loss + b.loss, a.weight + b.weight}; }

// The sums of all 256 threads, for every thread.
__device__ inline Sums fold_block(Sums value) {
    __shared__ Sums shared[256];
    return fold_team(Team{256, threadIdx.x, 0, 1}, shared, value, add_sums);
}

// Writes the reduced loss.
template <typename T>
__device__ inline void finish_loss(Sums sums, f64 count, uint32_t reduction, T* loss, Compute<T>* total) {
    f64 divisor = count > 0 ? count : sums.weight;
    if (total) *total = (Compute<T>)divisor;
    if (reduction != REDUCTION_NONE) {
        f64 value = reduction == REDUCTION_MEAN ? sums.loss / divisor : sums.loss;
        *loss = store<T>((Compute<T>)value);
    }
}
