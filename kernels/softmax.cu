// Softmax and log-softmax along one dimension, and their gradients. A team of threads takes a line and reads it once
// per pass, from the cache after the first.
#include "fold.cuh"
#include "real.cuh"

// `plain log` of float.
FAMILY(softmax, Lines<2> lines, address x, address out);
FAMILY(softmax_grad, Lines<3> lines, address grad, address y, address out);

// Reduces `f` over the elements of a line.
template <typename R, typename F, typename Merge>
__device__ inline R fold_line(const Team& team, R* shared, uint64_t n, R none, F f, Merge merge) {
    R total = none;
    for (uint64_t i = team.lane; i < n;) {
        R batch = none;
        for (int k = 0; k < BATCH && i < n; ++k, i += team.size) batch = merge(batch, f(i));
        total = merge(total, batch);
    }
    return fold_team(team, shared, total, merge);
}

template <typename T, bool Log>
__device__ inline void softmax(const Lines<2>& p, const T* x, T* out) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    uint64_t count = p.lines.numel, step = (uint64_t)gridDim.x * team.teams;
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < count; first += step) {
        uint64_t line = first + team.index;
        // A team without a line takes part with no elements, since all threads must reach the barriers.
        uint64_t n = line < count ? p.n : 0;
        Offsets<2> at = locate(p.lines, line < count ? line : 0);
        const T* from = x + at.at[0];
        T* to = out + at.at[1];
        R largest = fold_line<R>(team, shared, n, -(R)INFINITY,
                                 [&](uint64_t i) { return load(from[(int64_t)i * p.strides[0]]); },
                                 [](R a, R b) { return real::maximum(a, b); });
        R sum = fold_line<R>(team, shared, n, R(0),
                             [&](uint64_t i) { return real::exp(load(from[(int64_t)i * p.strides[0]]) - largest); },
                             [](R a, R b) { return a + b; });
        R log_sum = Log ? real::log(sum) : R(0);
        for (uint64_t i = team.lane; i < n; i += team.size) {
            R distance = load(from[(int64_t)i * p.strides[0]]) - largest;
            to[(int64_t)i * p.strides[1]] = store<T>(Log ? distance - log_sum : real::exp(distance) / sum);
        }
    }
}

template <typename T, bool Log>
__device__ inline void softmax_grad(const Lines<3>& p, const T* grad, const T* y, T* out) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    uint64_t count = p.lines.numel, step = (uint64_t)gridDim.x * team.teams;
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < count; first += step) {
        uint64_t line = first + team.index;
        uint64_t n = line < count ? p.n : 0;
        Offsets<3> at = locate(p.lines, line < count ? line : 0);
        auto g = [&](uint64_t i) { return load(grad[at.at[0] + (int64_t)i * p.strides[0]]); };
        auto value = [&](uint64_t i) { return load(y[at.at[1] + (int64_t)i * p.strides[1]]); };
        R sum = fold_line<R>(team, shared, n, R(0), [&](uint64_t i) { return Log ? g(i) : g(i) * value(i); },
                             [](R a, R b) { return a + b; });
        for (uint64_t i = team.lane; i < n; i += team.size) {
            R slope = Log ? g(i) - real::exp(value(i)) * sum : value(i) * (g(i) - sum);
            out[at.at[2] + (int64_t)i * p.strides[2]] = store<T>(slope);
        }
    }
}

#define SOFTMAX(op, log, name, T)                                                                                \
    KERNEL_OF(4) softmax_##op##_##name(BY_VALUE Lines<2> p, const T* x, T* out) { softmax<T, log>(p, x, out); }  \
    KERNEL_OF(4) softmax_grad_##op##_##name(BY_VALUE Lines<3> p, const T* grad, const T* y, T* out) {            \
        softmax_grad<T, log>(p, grad, y, out);                                                                   \
    }
#define BOTH(name, T)                     \
    SOFTMAX(plain, false, name, T)        \
    SOFTMAX(log, true, name, T)
FOR_FLOAT(BOTH)
