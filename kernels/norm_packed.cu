// Batch and layer normalization of dense tensors, 16 bytes at a time, in the stages of norm.cu, which has all others.
#include "norm.cuh"
#include "packed_groups.cuh"

// `along across rows` of f32 f16 bf16: batch_norm and batch_norm_eval along memory and across it, layer_norm. Blocks:
// `PackedGroups::blocks`. Otherwise as `norm`.
FAMILY(norm_packed, PackedNorm norm, address x, address weight, address bias, address residual, address out, address mean,
       address inv_std, address running_mean, address running_var, address shift, address count, address partial);
// The same, and `columns`: the gradients of layer_norm's weight and bias. Otherwise as `norm_grad`.
FAMILY(norm_packed_grad, PackedNorm norm, address grad, address x, address weight, address bias, address y, address mean,
       address inv_std, address out, address masked, address weight_grad, address bias_grad, address shift_grad,
       address partial);

// The moments of the elements of a thread, of `Wide` groups at once. All of them have as many elements.
template <typename T, bool Across, int Wide>
__device__ inline void packed_moments(const PackedGroups& p, const Team& team, const PackedPart& part, const T* x,
                                      Moments<Compute<T>> (&own)[Wide]) {
    typedef Compute<T> R;
    constexpr int V = 16 / sizeof(T);
    R before = R(0);
    walk_packs<Across, Across ? 4 : 2>(p, team, part, [&](const auto& places) {
        constexpr int N = std::decay_t<decltype(places)>::COUNT;
        constexpr int EACH = Across ? N : N * V;
        Pack<T, V> packs[N];
#pragma unroll
        for (int k = 0; k < N; ++k) packs[k] = read_pack<T, V>(x + places.at[k]);
        R after = before + R(EACH), share = R(EACH) / after, kept = before * share;
#pragma unroll
        for (int w = 0; w < Wide; ++w) {
            auto value = [&](int i) { return load(Across ? packs[i].elements[w] : packs[i / V].elements[i % V]); };
            R sum = R(0), squares = R(0);
#pragma unroll
            for (int i = 0; i < EACH; ++i) sum += value(i);
            R mean = sum * R(1.0 / EACH);
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                R distance = value(i) - mean;
                squares += distance * distance;
            }
            R distance = mean - own[w].mean;
            own[w].mean = before == R(0) ? mean : own[w].mean + distance * share;
            own[w].squares = before == R(0) ? squares : own[w].squares + squares + distance * distance * kept;
        }
        before = after;
    });
#pragma unroll
    for (int w = 0; w < Wide; ++w) own[w].count = before;
}

template <typename T, bool Across, bool Inside>
__device__ inline void norm_packed(const PackedNorm& p, const T* x, const T* weight, const T* bias, const T* residual, T* out,
                                   Compute<T>* mean, Compute<T>* inv_std, Running<T> running,
                                   Moments<Compute<T>>* partial) {
    typedef Compute<T> R;
    constexpr int V = 16 / sizeof(T), WIDE = Across ? V : 1;
    __shared__ Moments<R> shared[256];
    const PackedGroups& groups = p.groups;
    Team team = team_of(groups.lanes);
    uint32_t tasks = parts_of(groups), step = gridDim.x * team.teams;
    bool relu = p.flags & NORM_RELU;
#pragma unroll 1
    for (uint32_t first = blockIdx.x * team.teams; first < tasks; first += step) {
        PackedPart part = part_of(groups, first + team.index);
        int64_t group = (int64_t)part.group * WIDE;
        R center[WIDE], scale[WIDE], w[WIDE], b[WIDE];
#pragma unroll
        for (int k = 0; k < WIDE; ++k) {
            center[k] = scale[k] = b[k] = R(0);
            w[k] = R(1);
        }
        if (groups.stage == GROUPS_GIVEN) {
#pragma unroll
            for (int k = 0; k < WIDE; ++k) {
                if (!part.busy) continue;
                center[k] = mean[(group + k) * p.vectors[MEAN]];
                scale[k] = R(1) / real::sqrt(inv_std[(group + k) * p.vectors[INV_STD]] + (R)p.eps);
            }
        } else {
            Moments<R> own[WIDE];
#pragma unroll
            for (int k = 0; k < WIDE; ++k) own[k] = Moments<R>{R(0), R(0), R(0)};
            if (groups.stage == REDUCE_SECOND) {
#pragma unroll
                for (int k = 0; k < WIDE; ++k) {
                    const Moments<R>* from = partial + (group + k) * groups.splits;
#pragma unroll 1
                    for (uint32_t s = team.lane; part.busy && s < groups.splits; s += team.size) own[k] = merge(own[k], from[s]);
                }
            } else {
                packed_moments<T, Across>(groups, team, part, x, own);
            }
            R count = (R)groups.packs * R(Across ? 1 : V);
#pragma unroll
            for (int k = 0; k < WIDE; ++k) {
                Moments<R> all = fold_team(team, shared, own[k], merge<R>);
                bool writes = part.busy && team.lane == 0;
                if (groups.stage == REDUCE_FIRST) {
                    if (writes) partial[(group + k) * groups.splits + part.split] = all;
                    continue;
                }
                center[k] = all.mean;
                scale[k] = R(1) / real::sqrt(all.squares / count + (R)p.eps);
                if (!writes || part.split != 0) continue;
                mean[(group + k) * p.vectors[MEAN]] = center[k];
                inv_std[(group + k) * p.vectors[INV_STD]] = scale[k];
                running.update(p, group + k, all, count);
            }
            if (groups.stage == REDUCE_FIRST) continue;
        }
        if (!Inside && part.busy) {
#pragma unroll
            for (int k = 0; k < WIDE; ++k) {
                if (weight) w[k] = vector_at(p, weight, (group + k) * p.vectors[WEIGHT]);
                if (bias) b[k] = vector_at(p, bias, (group + k) * p.vectors[BIAS]);
            }
        }
        walk_packs<Across, Inside ? 1 : 2>(groups, team, part, [&](const auto& places) {
            constexpr int N = std::decay_t<decltype(places)>::COUNT;
            Pack<T, V> packs[N], weights[N], biases[N], added[N];
#pragma unroll
            for (int k = 0; k < N; ++k) {
                packs[k] = read_pack<T, V>(x + places.at[k]);
                if (!Inside && residual) added[k] = read_pack<T, V>(residual + places.at[k]);
                if (Inside && weight) weights[k] = read_pack<T, V>(weight + (uint64_t)places.index[k] * V);
                if (Inside && bias) biases[k] = read_pack<T, V>(bias + (uint64_t)places.index[k] * V);
            }
#pragma unroll
            for (int k = 0; k < N; ++k) {
#pragma unroll
                for (int e = 0; e < V; ++e) {
                    constexpr bool A = Across;
                    int of = A ? e : 0;
                    R scaled = (load(packs[k].elements[e]) - center[of]) * scale[of];
                    if (Inside) {
                        if (weight) scaled = scaled * load(weights[k].elements[e]);
                        if (bias) scaled = scaled + load(biases[k].elements[e]);
                    } else {
                        scaled = scaled * w[of] + b[of];
                        if (residual) scaled = scaled + load(added[k].elements[e]);
                        if (relu) scaled = through_relu(scaled, scaled);
                    }
                    packs[k].elements[e] = store<T>(scaled);
                }
                write_pack(out + places.at[k], packs[k]);
            }
        });
    }
}

template <typename T, bool Across, bool Inside, bool StatsInside>
__device__ inline void norm_packed_grad(const PackedNorm& p, const T* grad, const T* x, const T* weight, const T* bias,
                                        const T* y, const Compute<T>* mean, const Compute<T>* inv_std, T* out,
                                        T* masked, T* weight_grad, T* bias_grad, T* shift_grad,
                                        Sums<Compute<T>>* partial) {
    typedef Compute<T> R;
    constexpr int V = 16 / sizeof(T), WIDE = Across ? V : 1;
    // Whether a ReLU may follow: only batch normalization.
    constexpr bool BATCH = !Inside && !StatsInside;
    bool recomputed = BATCH && p.flags & NORM_RELU;
    __shared__ Sums<R> shared[256];
    const PackedGroups& groups = p.groups;
    Team team = team_of(groups.lanes);
    uint32_t tasks = parts_of(groups), step = gridDim.x * team.teams;
    // For the sums alone one team a group is enough.
    if (groups.stage == REDUCE_SECOND && !out) tasks = (uint32_t)groups.count.extent;
#pragma unroll 1
    for (uint32_t first = blockIdx.x * team.teams; first < tasks; first += step) {
        PackedPart part = part_of(groups, first + team.index);
        if (first + team.index >= tasks) {
            part.busy = false;
            part.end = part.begin;
        }
        int64_t group = (int64_t)part.group * WIDE;
        R center[WIDE], scale[WIDE], w[WIDE], b[WIDE];
        Sums<R> sums[WIDE];
#pragma unroll
        for (int k = 0; k < WIDE; ++k) {
            bool given = !StatsInside && part.busy;
            w[k] = BATCH && weight && part.busy ? vector_at(p, weight, (group + k) * p.vectors[WEIGHT]) : R(1);
            b[k] = BATCH && bias && part.busy ? vector_at(p, bias, (group + k) * p.vectors[BIAS_ITSELF]) : R(0);
            center[k] = given ? mean[(group + k) * p.vectors[MEAN]] : R(0);
            scale[k] = given ? inv_std[(group + k) * p.vectors[INV_STD]] : R(0);
            sums[k] = Sums<R>{R(0), R(0)};
        }
        // Calls `each(k, e, of, g, z)` with the gradient (through a ReLU that follows, and times the scale, where that is the
        // element's own) and the normalized input of element e of pack k, and the number of its group among those of the pack.
        auto pairs = [&](const auto& places, T* passed, auto each) {
            constexpr int N = std::decay_t<decltype(places)>::COUNT;
            Pack<T, V> gs[N], xs[N], weights[N], ys[N];
            R centers[N], scales[N];
#pragma unroll
            for (int k = 0; k < N; ++k) {
                gs[k] = read_pack<T, V>(grad + places.at[k]);
                xs[k] = read_pack<T, V>(x + places.at[k]);
                if (BATCH && y) ys[k] = read_pack<T, V>(y + places.at[k]);
                if (Inside && weight) weights[k] = read_pack<T, V>(weight + (uint64_t)places.index[k] * V);
                if (StatsInside) {
                    centers[k] = mean[(int64_t)places.index[k] * p.vectors[MEAN]];
                    scales[k] = inv_std[(int64_t)places.index[k] * p.vectors[INV_STD]];
                }
            }
#pragma unroll
            for (int k = 0; k < N; ++k) {
#pragma unroll
                for (int e = 0; e < V; ++e) {
                    constexpr bool A = Across;
                    int of = A ? e : 0;
                    R g = load(gs[k].elements[e]);
                    R z = (load(xs[k].elements[e]) - (StatsInside ? centers[k] : center[of])) * (StatsInside ? scales[k] : scale[of]);
                    if (Inside && weight) g = g * load(weights[k].elements[e]);
                    if (BATCH && y) {
                        g = through_relu(load(ys[k].elements[e]), g);
                    } else if (recomputed) {
                        g = through_relu(load(store<T>(z * w[of] + b[of])), g);
                    }
                    if (BATCH) gs[k].elements[e] = store<T>(g);
                    each(k, e, of, g, z);
                }
                if (BATCH && passed) write_pack(passed + places.at[k], gs[k]);
            }
        };
        if (groups.stage == REDUCE_SECOND) {
#pragma unroll
            for (int k = 0; k < WIDE; ++k) {
                const Sums<R>* from = partial + (group + k) * groups.splits;
#pragma unroll 1
                for (uint32_t s = team.lane; part.busy && s < groups.splits; s += team.size) sums[k] = add(sums[k], from[s]);
            }
        } else if (groups.stage != GROUPS_GIVEN) {
            walk_packs<Across, 2>(groups, team, part, [&](const auto& places) {
                Sums<R> batch[WIDE];
#pragma unroll
                for (int k = 0; k < WIDE; ++k) batch[k] = Sums<R>{R(0), R(0)};
                pairs(places, masked, [&](int, int, int of, R g, R z) { batch[of] = add(batch[of], Sums<R>{g, g * z}); });
#pragma unroll
                for (int k = 0; k < WIDE; ++k) sums[k] = add(sums[k], batch[k]);
            });
        }
        if (groups.stage != GROUPS_GIVEN) {
#pragma unroll
            for (int k = 0; k < WIDE; ++k) {
                sums[k] = fold_team(team, shared, sums[k], add<R>);
                if (!part.busy || team.lane != 0) continue;
                if (groups.stage == REDUCE_FIRST) {
                    partial[(group + k) * groups.splits + part.split] = sums[k];
                } else if (part.split == 0) {
                    if (weight_grad) set_vector(p, weight_grad, (group + k) * p.vectors[WEIGHT_GRAD], sums[k].product);
                    if (bias_grad) set_vector(p, bias_grad, (group + k) * p.vectors[BIAS], sums[k].grad);
                    if (shift_grad) set_vector(p, shift_grad, (group + k) * p.vectors[SHIFT_GRAD], R(0));
                }
            }
        }
        if (groups.stage == REDUCE_FIRST || !out) continue;
        R factor[WIDE], count = (R)groups.packs * R(Across ? 1 : V);
        bool constant = p.flags & NORM_CONSTANT;
#pragma unroll
        for (int k = 0; k < WIDE; ++k) {
            factor[k] = scale[k];
            if (weight && !Inside && part.busy) factor[k] = factor[k] * (BATCH ? w[k] : load(weight[(group + k) * p.vectors[WEIGHT]]));
            sums[k] = constant ? Sums<R>{R(0), R(0)} : Sums<R>{sums[k].grad / count, sums[k].product / count};
        }
        walk_packs<Across, 2>(groups, team, part, [&](const auto& places) {
            constexpr int N = std::decay_t<decltype(places)>::COUNT;
            Pack<T, V> results[N];
            pairs(places, (T*)nullptr, [&](int k, int e, int of, R g, R z) {
                // The statistics depend on the input: what g has in common with a constant and with z is taken out.
                R projected = constant ? g : (g - sums[of].grad) - z * sums[of].product;
                results[k].elements[e] = store<T>(projected * factor[of]);
            });
#pragma unroll
            for (int k = 0; k < N; ++k) write_pack(out + places.at[k], results[k]);
        });
    }
}

#define NORM(op, across, inside, name, T)                                                                            \
    KERNEL_OF(2) norm_packed_##op##_##name(BY_VALUE PackedNorm p, const T* x, const T* weight, const T* bias,        \
                                           const T* residual, T* out, Compute<T>* mean, Compute<T>* inv_std,         \
                                           Compute<T>* running_mean, Compute<T>* running_var, const T* shift,        \
                                           int64_t* count, Moments<Compute<T>>* partial) {                           \
        norm_packed<T, across, inside>(p, x, weight, bias, residual, out, mean, inv_std,                             \
                                       {running_mean, running_var, shift, count}, partial);                          \
    }
#define NORM_GRAD(op, across, inside, stats_inside, name, T)                                                         \
    KERNEL norm_packed_grad_##op##_##name(BY_VALUE PackedNorm p, const T* grad, const T* x, const T* weight,         \
                                          const T* bias, const T* y, const Compute<T>* mean,                         \
                                          const Compute<T>* inv_std, T* out, T* masked, T* weight_grad,              \
                                          T* bias_grad, T* shift_grad, Sums<Compute<T>>* partial) {                  \
        norm_packed_grad<T, across, inside, stats_inside>(p, grad, x, weight, bias, y, mean, inv_std, out, masked,   \
                                                          weight_grad, bias_grad, shift_grad, partial);              \
    }
#define NORMS(name, T)                                    \
    NORM(along, false, false, name, T)                    \
    NORM(across, true, false, name, T)                    \
    NORM(rows, false, true, name, T)                      \
    NORM_GRAD(along, false, false, false, name, T)        \
    NORM_GRAD(across, true, false, false, name, T)        \
    NORM_GRAD(rows, false, true, false, name, T)          \
    NORM_GRAD(columns, true, false, true, name, T)
NORMS(f32, f32)
FOR_HALF(NORMS)
