// Convolution and its gradients along any number of axes, for problems that cuDNN has no plan for: any strides, groups, sizes
// and float dtypes. A team of threads sums the terms of each element of the result, in an order that depends only on their
// number.
#pragma once
#include "fold.cuh"

// A position split into indices, innermost first; the last one is the remaining quotient.
template <int N>
struct Indices {
    int64_t at[N + 1];
};

template <int N>
__device__ inline Indices<N> indices(uint64_t position, const Dim (&dims)[N]) {
    Indices<N> found;
#pragma unroll
    for (int d = 0; d < N; ++d) {
        uint64_t rest = divide(position, dims[d], true);
        found.at[d] = (int64_t)(position - rest * dims[d].extent);
        position = rest;
    }
    found.at[N] = (int64_t)position;
    return found;
}

__device__ inline int64_t quotient(int64_t n, const Dim& by) { return (int64_t)divide((uint64_t)n, by, true); }

// The input position along an axis that a tap reads for an output position; false if it lies in the padding.
template <typename P>
__device__ inline bool reads(const P& p, int axis, int64_t out, int64_t tap, int64_t& in) {
    in = out * (int64_t)p.stride[axis].extent - p.padding[axis] + tap * p.dilation[axis];
    return in >= 0 && in < p.size[axis];
}

// The output position along an axis that reads an input position through a tap; false if there is none.
template <typename P>
__device__ inline bool read_by(const P& p, int axis, int64_t in, int64_t tap, int64_t& out) {
    int64_t place = in + p.padding[axis] - tap * p.dilation[axis];
    if (place < 0) return false;
    out = quotient(place, p.stride[axis]);
    return out * (int64_t)p.stride[axis].extent == place && out < p.out_size[axis];
}

// Each direction has a function that computes one term of a sum: a product, or 0 in the padding. `to` are the indices of the
// result, `of` those of the term; those of axis `d` are at `N - 1 - d`, before those of channels, images and filters.
struct Forward {
    template <typename P, typename T>
    static __device__ Compute<T> term(const P& p, const Indices<P::AXES + 1>& to, const Indices<P::AXES>& of, const T* x, const T* w) {
        constexpr int N = P::AXES;
        int64_t channel = to.at[N], group = quotient(channel, p.group_out);
        int64_t from = to.at[N + 1] * p.a[0] + (group * (int64_t)p.group_in.extent + of.at[N]) * p.a[1];
        int64_t weight = channel * p.b[0] + of.at[N] * p.b[1];
#pragma unroll
        for (int d = 0; d < N; ++d) {
            int64_t place, tap = of.at[N - 1 - d];
            if (!reads(p, d, to.at[N - 1 - d], tap, place)) return 0;
            from += place * p.a[2 + d];
            weight += tap * p.b[2 + d];
        }
        return load(x[from]) * load(w[weight]);
    }
};

struct GradInput {
    template <typename P, typename T>
    static __device__ Compute<T> term(const P& p, const Indices<P::AXES + 1>& to, const Indices<P::AXES>& of, const T* y, const T* w) {
        constexpr int N = P::AXES;
        int64_t group = quotient(to.at[N], p.group_in), channel = group * (int64_t)p.group_out.extent + of.at[N];
        int64_t from = to.at[N + 1] * p.a[0] + channel * p.a[1];
        int64_t weight = channel * p.b[0] + (to.at[N] - group * (int64_t)p.group_in.extent) * p.b[1];
#pragma unroll
        for (int d = 0; d < N; ++d) {
            int64_t place, tap = of.at[N - 1 - d];
            if (!read_by(p, d, to.at[N - 1 - d], tap, place)) return 0;
            from += place * p.a[2 + d];
            weight += tap * p.b[2 + d];
        }
        return load(y[from]) * load(w[weight]);
    }
};

struct GradWeight {
    template <typename P, typename T>
    static __device__ Compute<T> term(const P& p, const Indices<P::AXES + 1>& to, const Indices<P::AXES>& of, const T* x, const T* y) {
        constexpr int N = P::AXES;
        int64_t channel = to.at[N + 1], group = quotient(channel, p.group_out);
        int64_t from = of.at[N] * p.a[0] + (group * (int64_t)p.group_in.extent + to.at[N]) * p.a[1];
        int64_t grad = of.at[N] * p.b[0] + channel * p.b[1];
#pragma unroll
        for (int d = 0; d < N; ++d) {
            int64_t place, out = of.at[N - 1 - d];
            if (!reads(p, d, out, to.at[N - 1 - d], place)) return 0;
            from += place * p.a[2 + d];
            grad += out * p.b[2 + d];
        }
        return load(x[from]) * load(y[grad]);
    }
};

template <typename T, typename Direction, typename P>
__device__ inline void convolve(const P& p, const T* a, const T* b, T* out) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    uint64_t step = (uint64_t)gridDim.x * team.teams;
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < p.numel; first += step) {
        uint64_t result = first + team.index;
        bool busy = result < p.numel;
        auto to = indices(result, p.result);
        R sum = R(0);
        for (uint64_t term = team.lane; busy && term < p.terms;) {
            R batch = R(0);
#pragma unroll 1
            for (int k = 0; k < BATCH && term < p.terms; ++k, term += team.size)
                batch += Direction::term(p, to, indices(term, p.term), a, b);
            sum += batch;
        }
        sum = fold_team(team, shared, sum, [](R x, R y) { return x + y; });
        if (busy && team.lane == 0) {
            int64_t at = 0;
#pragma unroll
            for (int dim = 0; dim < P::AXES + 2; ++dim) at += to.at[P::AXES + 1 - dim] * p.out[dim];
            out[at] = store<T>(sum);
        }
    }
}
