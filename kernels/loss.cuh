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

// Ends a launch whose threads have summed the losses of their rows: the only block writes the loss, others their sums.
template <typename T>
__device__ inline void finish_rows(Sums sums, f64 count, uint32_t reduction, T* loss, Compute<T>* total, Sums* partial) {
    sums = fold_block(sums);
    if (threadIdx.x > 0) return;
    if (gridDim.x == 1) {
        finish_loss<T>(sums, count, reduction, loss, total);
    } else {
        partial[blockIdx.x] = sums;
    }
}

// Whether a row's label is in range and not ignored; a label out of range is reported.
__device__ inline bool label_counts(int64_t label, const ClassLoss& p, Status* status) {
    if (label == p.ignore_index) return false;
    if ((uint64_t)label < p.classes) return true;
    if (status) report(status, STATUS_CLASS, label, (int64_t)p.classes);
    return false;
}
