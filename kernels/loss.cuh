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

// The losses of scores of type T, or their gradients: of that type or, where `wide`, of the one that they are computed in.
template <typename T>
struct Losses {
    void* memory;
    bool wide;

    __device__ Compute<T> get(int64_t i) const {
        return wide ? static_cast<Compute<T>*>(memory)[i] : load(static_cast<T*>(memory)[i]);
    }
    __device__ void put(int64_t i, Compute<T> value) const {
        if (wide) {
            static_cast<Compute<T>*>(memory)[i] = value;
        } else {
            static_cast<T*>(memory)[i] = store<T>(value);
        }
    }
};

// Writes the reduced loss.
template <typename T>
__device__ inline void finish_loss(Sums sums, f64 count, uint32_t reduction, Losses<T> loss, Compute<T>* total) {
    f64 divisor = count > 0 ? count : sums.weight;
    if (total) *total = (Compute<T>)divisor;
    if (reduction != REDUCTION_NONE) {
        f64 value = reduction == REDUCTION_MEAN ? sums.loss / divisor : sums.loss;
        loss.put(0, (Compute<T>)value);
    }
}

// Ends a launch whose threads have summed the losses of their rows: the only block writes the loss, others their sums.
template <typename T>
__device__ inline void finish_rows(Sums sums, f64 count, uint32_t reduction, Losses<T> loss, Compute<T>* total,
                                   Sums* partial) {
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
