// What the normalizations share: strides of their vectors, moments and how they are merged, sums of gradients.
#pragma once
#include "real.cuh"

// Indices of `Norm::vectors`, the strides of the vectors that belong to groups or to their elements.
constexpr int WEIGHT = 0;
constexpr int BIAS = 1;  // backward: its gradient
constexpr int MEAN = 2;
constexpr int INV_STD = 3;  // in evaluation: the variance
constexpr int RUNNING_MEAN = 4;
constexpr int RUNNING_VAR = 5;
constexpr int SHIFT = 6;
constexpr int WEIGHT_GRAD = 4;
constexpr int SHIFT_GRAD = 5;
constexpr int BIAS_ITSELF = 6;  // backward

// Count, mean and sum of squared deviations. Exact for a few elements, then merged as by Chan, Golub & LeVeque,
// "Updating formulae and a pairwise algorithm for computing sample variances", 1979, so that no large squares are ever
// subtracted.
template <typename R>
struct Moments {
    R count, mean, squares;
};

template <typename R>
__device__ inline Moments<R> merge(Moments<R> a, Moments<R> b) {
    if (b.count == R(0)) return a;
    if (a.count == R(0)) return b;
    R count = a.count + b.count, distance = b.mean - a.mean, share = b.count / count;
    return Moments<R>{count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
}

// Sums of the incoming gradient, and of its products with the normalized input.
template <typename R>
struct Sums {
    R grad, product;
};

template <typename R>
__device__ inline Sums<R> add(Sums<R> a, Sums<R> b) {
    return Sums<R>{a.grad + b.grad, a.product + b.product};
}

// An element of a scale or shift that belongs to a group: of the images' type, or with NORM_WIDE of the one that half precision
// is computed in.
template <typename T, typename P>
__device__ inline Compute<T> vector_at(const P& p, const T* vector, int64_t at) {
    if (sizeof(T) == 2 && p.flags & NORM_WIDE) return reinterpret_cast<const Compute<T>*>(vector)[at];
    return load(vector[at]);
}

// Writes an element of the gradient of one.
template <typename T, typename P>
__device__ inline void set_vector(const P& p, T* vector, int64_t at, Compute<T> value) {
    if (sizeof(T) == 2 && p.flags & NORM_WIDE) {
        reinterpret_cast<Compute<T>*>(vector)[at] = value;
    } else {
        vector[at] = store<T>(value);
    }
}

// Updates the running statistics of a group with those of the batch.
template <typename T>
struct Running {
    typedef Compute<T> R;
    R* mean;  // may be null, and then so are the others; of T, as `var`, with NORM_RUNNING_STORED
    R* var;
    const T* shift;  // may be null
    int64_t* count;  // may be null

    template <typename P>
    __device__ void update(const P& p, int64_t group, Moments<R> batch, R elements) const {
        if (!mean) return;
        R momentum = (R)p.momentum, kept = (R)(1.0 - p.momentum), center = batch.mean;
        if (shift) center = center + vector_at(p, shift, group * p.vectors[SHIFT]);
        auto move = [&](R* stat, int vector, R value) {
            int64_t place = group * p.vectors[vector];
            if (p.flags & NORM_RUNNING_STORED) {
                T& old = reinterpret_cast<T*>(stat)[place];
                old = store<T>(kept * load(old) + momentum * value);
            } else {
                stat[place] = kept * stat[place] + momentum * value;
            }
        };
        move(mean, RUNNING_MEAN, center);
        move(var, RUNNING_VAR, batch.squares / (elements - R(1)));
        if (count && group == 0) *count += 1;
    }
};

// The gradient of ReLU's input, where `output` is ReLU's.
template <typename R>
__device__ inline R through_relu(R output, R grad) {
    return output <= R(0) ? R(0) : grad;
}
