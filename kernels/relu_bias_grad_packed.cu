// The backward pass of `relu(x + bias)` for dense tensors, 16 bytes at a time. relu_bias_grad.cu has the general case,
// and the second stage of both.
#include "packed_groups.cuh"

// `along across` of f32 f16 bf16. Blocks: `PackedGroups::blocks`. `partial` may be null.
FAMILY(relu_bias_grad_packed, PackedGroups groups, address grad, address y, address out, address bias, i64 bias_stride,
       address partial);

template <typename T, bool Across>
__device__ inline void relu_bias_grad_packed(const PackedGroups& p, const T* grad, const T* y, T* out, T* bias,
                                             int64_t stride, Compute<T>* partial) {
    typedef Compute<T> R;
    constexpr int V = 16 / sizeof(T);
    // Groups per pack.
    constexpr int WIDE = Across ? V : 1;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    uint32_t tasks = parts_of(p), step = gridDim.x * team.teams;
#pragma unroll 1
    for (uint32_t first = blockIdx.x * team.teams; first < tasks; first += step) {
        PackedPart part = part_of(p, first + team.index);
        R sums[WIDE];
#pragma unroll
        for (int w = 0; w < WIDE; ++w) sums[w] = R(0);
        walk_packs<Across, 2>(p, team, part, [&](const auto& places) {
            constexpr int N = std::decay_t<decltype(places)>::COUNT;
            Pack<T, V> g[N], v[N];
#pragma unroll
            for (int k = 0; k < N; ++k) {
                g[k] = read_pack<T, V>(grad + places.at[k]);
                v[k] = read_pack<T, V>(y + places.at[k]);
            }
#pragma unroll
            for (int k = 0; k < N; ++k) {
                R batch = R(0);
#pragma unroll
                for (int e = 0; e < V; ++e) {
                    // As in the gradient of ReLU alone: 0 where the output is 0.
                    R passed = load(v[k].elements[e]) <= R(0) ? R(0) : load(g[k].elements[e]);
                    g[k].elements[e] = store<T>(passed);
                    if (Across) {
                        sums[Across ? e : 0] += passed;
                    } else {
                        batch += passed;
                    }
                }
                if (!Across) sums[0] += batch;
                write_pack(out + places.at[k], g[k]);
            }
        });
#pragma unroll
        for (int w = 0; w < WIDE; ++w) {
            R sum = fold_team(team, shared, sums[w], [](R a, R b) { return a + b; });
            if (!part.busy || team.lane != 0) continue;
            uint64_t group = (uint64_t)part.group * WIDE + w;
            if (p.stage == REDUCE_FIRST) {
                partial[group * p.splits + part.split] = sum;
            } else {
                bias[(int64_t)group * stride] = store<T>(sum);
            }
        }
    }
}

#define RELU_BIAS_GRAD(op, across, name, T)                                                                            \
    KERNEL relu_bias_grad_packed_##op##_##name(BY_VALUE PackedGroups p, const T* grad, const T* y, T* out, T* bias,    \
                                               int64_t stride, Compute<T>* partial) {                                  \
        relu_bias_grad_packed<T, across>(p, grad, y, out, bias, stride, partial);                                      \
    }
#define BOTH(name, T)                           \
    RELU_BIAS_GRAD(along, false, name, T)       \
    RELU_BIAS_GRAD(across, true, name, T)
BOTH(f32, f32)
FOR_HALF(BOTH)
