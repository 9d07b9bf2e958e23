// The backward pass of `relu(x + bias)` in one kernel: the gradient of x, and its sums over each channel, which are the
// gradient of the bias.
#include "groups.cuh"

// `masked` of float. Blocks: `Groups::blocks`. `partial` may be null.
FAMILY(relu_bias_grad, Groups groups, address grad, address y, address out, address bias, i64 bias_stride,
       address partial);

template <typename T>
__device__ inline void relu_bias_grad(const Groups& p, const T* grad, const T* y, T* out, T* bias, int64_t stride,
                                      Compute<T>* partial) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    bool second = p.stage == REDUCE_SECOND;
    uint64_t tasks = second ? p.count.extent : parts_of(p), step = (uint64_t)gridDim.x * team.teams;
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < tasks; first += step) {
        uint64_t task = first + team.index;
        // The second stage has one team per group; a team past the last reads the partial results of some group again.
        bool busy = task < tasks;
        Part part = part_of(p, task);
        R sum = R(0);
        if (second) {
            const R* from = partial + part.group * p.splits;
            for (uint64_t s = team.lane; busy && s < p.splits; s += team.size) sum += from[s];
        } else {
            walk<T>(p, team, part, [&](uint64_t, int count, const Offsets<3>(&places)[AT_ONCE<T>]) {
                R g[AT_ONCE<T>], v[AT_ONCE<T>], batch = R(0);
#pragma unroll
                for (int k = 0; k < AT_ONCE<T>; ++k) {
                    g[k] = k < count ? load(grad[part.at[2] + places[k].at[2]]) : R(0);
                    v[k] = k < count ? load(y[part.at[0] + places[k].at[0]]) : R(0);
                }
#pragma unroll
                for (int k = 0; k < AT_ONCE<T>; ++k) {
                    // As in the gradient of ReLU alone: 0 where the output is 0.
                    if (v[k] <= R(0)) g[k] = R(0);
                    if (k < count) out[part.at[1] + places[k].at[1]] = store<T>(g[k]);
                    batch += g[k];
                }
                sum += batch;
            });
        }
        sum = fold_team(team, shared, sum, [](R a, R b) { return a + b; });
        if (busy && team.lane == 0) {
            if (p.stage == REDUCE_FIRST) {
                partial[part.group * p.splits + part.split] = sum;
            } else {
                bias[(int64_t)part.group * stride] = store<T>(sum);
            }
        }
    }
}

#define RELU_BIAS_GRAD(name, T)                                                                                    \
    KERNEL relu_bias_grad_masked_##name(BY_VALUE Groups p, const T* grad, const T* y, T* out, T* bias,             \
                                        int64_t stride, Compute<T>* partial) {                                     \
        relu_bias_grad<T>(p, grad, y, out, bias, stride, partial);                                                 \
    }
FOR_FLOAT(RELU_BIAS_GRAD)
