// Batch and layer normalization: statistics of groups of elements, and normalization by them. Several teams share a
// large group: a first launch writes their partial results, and each team of the second merges these, in a fixed order.
#include "groups.cuh"
#include "norm.cuh"

// `groups` of float: batch_norm, batch_norm_eval, layer_norm. Blocks: `Groups::blocks`. `inv_std` is the variance
// where statistics are given; weight, bias, the running statistics and `partial` may be null.
FAMILY(norm, Norm norm, address x, address weight, address bias, address out, address mean, address inv_std,
       address running_mean, address running_var, address partial);
// `groups` of float. Blocks: `Groups::blocks`. weight, the three results and `partial` may be null.
FAMILY(norm_grad, Norm norm, address grad, address x, address weight, address mean, address inv_std, address out,
       address weight_grad, address bias_grad, address partial);

template <typename T>
__device__ inline Moments<Compute<T>> moments(const Groups& p, const Team& team, const Part& part, const T* x) {
    typedef Compute<T> R;
    Moments<R> total = {R(0), R(0), R(0)};
    walk<T>(p, team, part, [&](uint64_t, int count, const Offsets<3>(&places)[AT_ONCE<T>]) {
        R values[AT_ONCE<T>], sum = R(0), squares = R(0);
#pragma unroll
        for (int k = 0; k < AT_ONCE<T>; ++k) values[k] = k < count ? load(x[part.at[0] + places[k].at[0]]) : R(0);
#pragma unroll
        for (int k = 0; k < AT_ONCE<T>; ++k) sum += values[k];
        R share = count == 4 ? R(0.25) : count == 3 ? R(1.0 / 3) : count == 2 ? R(0.5) : R(1), mean = sum * share;
#pragma unroll
        for (int k = 0; k < AT_ONCE<T>; ++k) {
            R distance = k < count ? values[k] - mean : R(0);
            squares += distance * distance;
        }
        total = merge(total, Moments<R>{(R)count, mean, squares});
    });
    return total;
}

template <typename T>
__device__ inline void norm(const Norm& p, const T* x, const T* weight, const T* bias, T* out, Compute<T>* mean,
                            Compute<T>* inv_std, Compute<T>* running_mean, Compute<T>* running_var,
                            Moments<Compute<T>>* partial) {
    typedef Compute<T> R;
    __shared__ Moments<R> shared[256];
    const Groups& groups = p.groups;
    Team team = team_of(groups.lanes);
    uint64_t tasks = parts_of(groups), step = (uint64_t)gridDim.x * team.teams;
    bool inside = p.flags & NORM_AFFINE_INSIDE;
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < tasks; first += step) {
        Part part = part_of(groups, first + team.index);
        int64_t group = (int64_t)part.group;
        R center = R(0), scale = R(0);
        if (groups.stage == GROUPS_GIVEN) {
            if (part.busy) {
                center = mean[group * p.vectors[MEAN]];
                scale = R(1) / real::sqrt(inv_std[group * p.vectors[INV_STD]] + (R)p.eps);
            }
        } else {
            Moments<R> own = {R(0), R(0), R(0)};
            if (groups.stage == REDUCE_SECOND) {
                const Moments<R>* from = partial + part.group * groups.splits;
                for (uint64_t s = team.lane; part.busy && s < groups.splits; s += team.size) own = merge(own, from[s]);
            } else {
                own = moments(groups, team, part, x);
            }
            own = fold_team(team, shared, own, merge<R>);
            bool writes = part.busy && team.lane == 0;
            if (groups.stage == REDUCE_FIRST) {
                if (writes) partial[part.group * groups.splits + part.split] = own;
                continue;
            }
            R count = (R)groups.inner.numel;
            center = own.mean;
            scale = R(1) / real::sqrt(own.squares / count + (R)p.eps);
            if (writes && part.split == 0) {
                mean[group * p.vectors[MEAN]] = center;
                inv_std[group * p.vectors[INV_STD]] = scale;
                if (running_mean) {
                    R momentum = (R)p.momentum, kept = (R)(1.0 - p.momentum);
                    R& old_mean = running_mean[group * p.vectors[RUNNING_MEAN]];
                    R& old_var = running_var[group * p.vectors[RUNNING_VAR]];
                    old_mean = kept * old_mean + momentum * center;
                    old_var = kept * old_var + momentum * (own.squares / (count - R(1)));
                }
            }
        }
        R w = R(1), b = R(0);
        if (!inside && part.busy) {
            if (weight) w = load(weight[group * p.vectors[WEIGHT]]);
            if (bias) b = load(bias[group * p.vectors[BIAS]]);
        }
        walk<T>(groups, team, part, [&](uint64_t i, int count, const Offsets<3>(&places)[AT_ONCE<T>]) {
            R values[AT_ONCE<T>];
#pragma unroll
            for (int k = 0; k < AT_ONCE<T>; ++k) values[k] = k < count ? load(x[part.at[0] + places[k].at[0]]) : R(0);
#pragma unroll
            for (int k = 0; k < AT_ONCE<T>; ++k) {
                if (k < count) {
                    R scaled = (values[k] - center) * scale;
                    if (inside) {
                        int64_t place = (int64_t)(i + (uint64_t)k * team.size);
                        if (weight) scaled = scaled * load(weight[place * p.vectors[WEIGHT]]);
                        if (bias) scaled = scaled + load(bias[place * p.vectors[BIAS]]);
                    } else {
                        scaled = scaled * w + b;
                    }
                    out[part.at[1] + places[k].at[1]] = store<T>(scaled);
                }
            }
        });
    }
}

// An element's gradient (times the scale, where the scale is indexed by element) and its normalized input.
template <typename T>
struct Pairs {
    typedef Compute<T> R;
    const Norm& p;
    const T* grad;
    const T* x;
    const T* weight;  // null where the scale is the group's
    const R* mean;    // of this group, or of the elements
    const R* inv_std;
    R center, scale;  // of the group

    __device__ void read(const Part& part, const Team& team, uint64_t i, int count, const Offsets<3> (&places)[AT_ONCE<T>],
                         R (&g)[AT_ONCE<T>], R (&z)[AT_ONCE<T>]) const {
#pragma unroll
        for (int k = 0; k < AT_ONCE<T>; ++k) {
            g[k] = k < count ? load(grad[part.at[2] + places[k].at[2]]) : R(0);
            z[k] = k < count ? load(x[part.at[0] + places[k].at[0]]) : R(0);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE<T>; ++k) {
            int64_t place = (int64_t)(i + (uint64_t)k * team.size);
            if (p.flags & NORM_STATS_INSIDE) {
                if (k < count) z[k] = (z[k] - mean[place * p.vectors[MEAN]]) * inv_std[place * p.vectors[INV_STD]];
            } else {
                z[k] = k < count ? (z[k] - center) * scale : R(0);
            }
            if (weight && k < count) g[k] = g[k] * load(weight[place * p.vectors[WEIGHT]]);
        }
    }
};

template <typename T>
__device__ inline void norm_grad(const Norm& p, const T* grad, const T* x, const T* weight, const Compute<T>* mean,
                                 const Compute<T>* inv_std, T* out, T* weight_grad, T* bias_grad,
                                 Sums<Compute<T>>* partial) {
    typedef Compute<T> R;
    __shared__ Sums<R> shared[256];
    const Groups& groups = p.groups;
    Team team = team_of(groups.lanes);
    uint64_t tasks = parts_of(groups), step = (uint64_t)gridDim.x * team.teams;
    bool inside = p.flags & NORM_AFFINE_INSIDE;
    // For the sums alone, one team per group is enough.
    if (groups.stage == REDUCE_SECOND && !out) tasks = groups.count.extent;
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < tasks; first += step) {
        Part part = part_of(groups, first + team.index);
        int64_t group = (int64_t)part.group;
        Pairs<T> pairs = {p, grad, x, inside ? weight : nullptr, mean, inv_std, R(0), R(0)};
        if (!(p.flags & NORM_STATS_INSIDE) && part.busy) {
            pairs.center = mean[group * p.vectors[MEAN]];
            pairs.scale = inv_std[group * p.vectors[INV_STD]];
        }
        Sums<R> sums = {R(0), R(0)};
        if (groups.stage != GROUPS_GIVEN) {
            if (groups.stage == REDUCE_SECOND) {
                const Sums<R>* from = partial + part.group * groups.splits;
                for (uint64_t s = team.lane; part.busy && s < groups.splits; s += team.size) sums = add(sums, from[s]);
            } else {
                walk<T>(groups, team, part, [&](uint64_t i, int count, const Offsets<3>(&places)[AT_ONCE<T>]) {
                    R g[AT_ONCE<T>], z[AT_ONCE<T>];
                    pairs.read(part, team, i, count, places, g, z);
                    Sums<R> batch = {R(0), R(0)};
#pragma unroll
                    for (int k = 0; k < AT_ONCE<T>; ++k) batch = add(batch, Sums<R>{g[k], g[k] * z[k]});
                    sums = add(sums, batch);
                });
            }
            sums = fold_team(team, shared, sums, add<R>);
            bool writes = part.busy && team.lane == 0;
            if (groups.stage == REDUCE_FIRST) {
                if (writes) partial[part.group * groups.splits + part.split] = sums;
                continue;
            }
            if (writes && part.split == 0) {
                if (weight_grad) weight_grad[group * p.vectors[WEIGHT_GRAD]] = store<T>(sums.product);
                if (bias_grad) bias_grad[group * p.vectors[BIAS]] = store<T>(sums.grad);
            }
        }
        if (!out) continue;
        R factor = pairs.scale;
        if (weight && !inside && part.busy) factor = factor * load(weight[group * p.vectors[WEIGHT]]);
        R count = (R)groups.inner.numel;
        R mean_grad = p.flags & NORM_CONSTANT ? R(0) : sums.grad / count;
        R mean_product = p.flags & NORM_CONSTANT ? R(0) : sums.product / count;
        walk<T>(groups, team, part, [&](uint64_t i, int count, const Offsets<3>(&places)[AT_ONCE<T>]) {
            R g[AT_ONCE<T>], z[AT_ONCE<T>];
            pairs.read(part, team, i, count, places, g, z);
#pragma unroll
            for (int k = 0; k < AT_ONCE<T>; ++k) {
                // The statistics depend on the input: the components of g along a constant and along z are removed.
                R projected = p.flags & NORM_CONSTANT ? g[k] : (g[k] - mean_grad) - z[k] * mean_product;
                if (k < count) out[part.at[1] + places[k].at[1]] = store<T>(projected * factor);
            }
        });
    }
}

#define NORM(name, T)                                                                                              \
    KERNEL norm_groups_##name(BY_VALUE Norm p, const T* x, const T* weight, const T* bias, T* out,                 \
                              Compute<T>* mean, Compute<T>* inv_std, Compute<T>* running_mean,                     \
                              Compute<T>* running_var, Moments<Compute<T>>* partial) {                             \
        norm<T>(p, x, weight, bias, out, mean, inv_std, running_mean, running_var, partial);                       \
    }                                                                                                              \
    KERNEL norm_grad_groups_##name(BY_VALUE Norm p, const T* grad, const T* x, const T* weight,                    \
                                   const Compute<T>* mean, const Compute<T>* inv_std, T* out, T* weight_grad,      \
                                   T* bias_grad, Sums<Compute<T>>* partial) {                                      \
        norm_grad<T>(p, grad, x, weight, mean, inv_std, out, weight_grad, bias_grad, partial);                     \
    }
FOR_FLOAT(NORM)
