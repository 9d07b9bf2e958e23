// Two-dimensional convolution and its gradients for problems that cuDNN has no plan for: any strides, groups, sizes and float
// dtypes. A team of threads sums the terms of each element of the result, in an order that depends only on their number.
#include "fold.cuh"

// Operations on float dtypes. `forward`: a, b are the images and the filter. `grad_input`: the gradient of the output, and the
// filter. `grad_weight`: the images, and the gradient of the output. Blocks: one per `256 >> lanes.log2` results.
FAMILY(conv2d, Convolution shape, address a, address b, address out);

// A position split into indices, innermost first; the last one is the remaining quotient.
struct Indices {
    int64_t at[4];
};

template <int N>
__device__ inline Indices indices(uint64_t position, const Dim (&dims)[N]) {
    Indices found;
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

// The input pixel that a tap reads for an output pixel; false if it lies in the padding.
__device__ inline bool reads(const Convolution& p, int d, int64_t out, int64_t tap, int64_t& in) {
    in = out * (int64_t)p.stride[d].extent - p.padding[d] + tap * p.dilation[d];
    return in >= 0 && in < p.size[d];
}

// The output pixel that reads an input pixel through a tap; false if there is none.
__device__ inline bool read_by(const Convolution& p, int d, int64_t in, int64_t tap, int64_t& out) {
    int64_t place = in + p.padding[d] - tap * p.dilation[d];
    if (place < 0) return false;
    out = quotient(place, p.stride[d]);
    return out * (int64_t)p.stride[d].extent == place && out < p.out_size[d];
}

// Each direction has a function that computes one term of a sum: a product, or 0 in the padding.
struct Forward {
    template <typename T>
    static __device__ Compute<T> term(const Convolution& p, const Indices& to, const Indices& of, const T* x, const T* w) {
        int64_t channel = to.at[2], group = quotient(channel, p.group_out), row, column;
        if (!reads(p, 0, to.at[1], of.at[1], row) || !reads(p, 1, to.at[0], of.at[0], column)) return 0;
        return load(x[to.at[3] * p.a[0] + (group * (int64_t)p.group_in.extent + of.at[2]) * p.a[1] + row * p.a[2] + column * p.a[3]]) *
               load(w[channel * p.b[0] + of.at[2] * p.b[1] + of.at[1] * p.b[2] + of.at[0] * p.b[3]]);
    }
};

struct GradInput {
    template <typename T>
    static __device__ Compute<T> term(const Convolution& p, const Indices& to, const Indices& of, const T* y, const T* w) {
        int64_t group = quotient(to.at[2], p.group_in), channel = group * (int64_t)p.group_out.extent + of.at[2], row, column;
        if (!read_by(p, 0, to.at[1], of.at[1], row) || !read_by(p, 1, to.at[0], of.at[0], column)) return 0;
        return load(y[to.at[3] * p.a[0] + channel * p.a[1] + row * p.a[2] + column * p.a[3]]) *
               load(w[channel * p.b[0] + (to.at[2] - group * (int64_t)p.group_in.extent) * p.b[1] + of.at[1] * p.b[2] + of.at[0] * p.b[3]]);
    }
};

struct GradWeight {
    template <typename T>
    static __device__ Compute<T> term(const Convolution& p, const Indices& to, const Indices& of, const T* x, const T* y) {
        int64_t channel = to.at[3], group = quotient(channel, p.group_out), row, column;
        if (!reads(p, 0, of.at[1], to.at[1], row) || !reads(p, 1, of.at[0], to.at[0], column)) return 0;
        return load(x[of.at[2] * p.a[0] + (group * (int64_t)p.group_in.extent + to.at[2]) * p.a[1] + row * p.a[2] + column * p.a[3]]) *
               load(y[of.at[2] * p.b[0] + channel * p.b[1] + of.at[1] * p.b[2] + of.at[0] * p.b[3]]);
    }
};

template <typename T, typename Direction>
__device__ inline void conv2d(const Convolution& p, const T* a, const T* b, T* out) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    uint64_t step = (uint64_t)gridDim.x * team.teams;
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < p.numel; first += step) {
        uint64_t result = first + team.index;
        bool busy = result < p.numel;
        Indices to = indices(result, p.result);
        R sum = R(0);
        for (uint64_t term = team.lane; busy && term < p.terms;) {
            R batch = R(0);
#pragma unroll 1
            for (int k = 0; k < BATCH && term < p.terms; ++k, term += team.size)
                batch += Direction::term(p, to, indices(term, p.term), a, b);
            sum += batch;
        }
        sum = fold_team(team, shared, sum, [](R x, R y) { return x + y; });
        if (busy && team.lane == 0)
            out[to.at[3] * p.out[0] + to.at[2] * p.out[1] + to.at[1] * p.out[2] + to.at[0] * p.out[3]] = store<T>(sum);
    }
}

#define CONV2D(name, T, direction, Direction)                                                                      \
    KERNEL_OF(4) conv2d_##direction##_##name(BY_VALUE Convolution p, const T* a, const T* b, T* out) {              \
        conv2d<T, Direction>(p, a, b, out);                                                                        \
    }
FOR_FLOAT(CONV2D, forward, Forward)
FOR_FLOAT(CONV2D, grad_input, GradInput)
FOR_FLOAT(CONV2D, grad_weight, GradWeight)
