// Batch and layer normalization: statistics of groups of elements, and normalization by them. Several teams share a
// large group: a first launch writes their partial results, and each team of the second merges these, in a fixed order.
#include "groups.cuh"
#include "norm.cuh"

// `groups` of float: batch_norm, batch_norm_eval, layer_norm. Blocks: `Groups::blocks`. `inv_std` is the variance
// where statistics are given; weight, bias, the residual (third among the operands of `Groups`), the running statistics with
// shift and count, and `partial` may be null.
FAMILY(norm, Norm norm, address x, address weight, address bias, address residual, address out, address mean,
       address inv_std, address running_mean, address running_var, address shift, address count, address partial);
// `groups` of float. Blocks: `Groups::blocks`. weight, bias, y, the five results and `partial` may be null. `y` is the output
// of a ReLU that follows, and `masked` receives the gradient of that ReLU's input; both lie like `out`.
FAMILY(norm_grad, Norm norm, address grad, address x, address weight, address bias, address y, address mean,
       address inv_std, address out, address masked, address weight_grad, address bias_grad, address shift_grad,
       address partial);

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
__device__ inline void norm(const Norm& p, const T* x, const T* weight, const T* bias, const T* residual, T* out,
                            Compute<T>* mean, Compute<T>* inv_std, Running<T> running, Moments<Compute<T>>* partial) {
    typedef Compute<T> R;
    __shared__ Moments<R> shared[256];
    const Groups& groups = p.groups;
    Team team = team_of(groups.lanes);
    uint64_t tasks = parts_of(groups), step = (uint64_t)gridDim.x * team.teams;
    bool inside = p.flags & NORM_AFFINE_INSIDE, relu = p.flags & NORM_RELU;
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
                running.update(p, group, own, count);
            }
        }
        R w = R(1), b = R(0);
        if (!inside && part.busy) {
            if (weight) w = vector_at(p, weight, group * p.vectors[WEIGHT]);
            if (bias) b = vector_at(p, bias, group * p.vectors[BIAS]);
        }
        walk<T>(groups, team, part, [&](uint64_t i, int count, const Offsets<3>(&places)[AT_ONCE<T>]) {
            R values[AT_ONCE<T>], added[AT_ONCE<T>];
#pragma unroll
            for (int k = 0; k < AT_ONCE<T>; ++k) {
                values[k] = k < count ? load(x[part.at[0] + places[k].at[0]]) : R(0);
                added[k] = residual && k < count ? load(residual[part.at[2] + places[k].at[2]]) : R(0);
            }
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
                    if (residual) scaled = scaled + added[k];
                    if (relu) scaled = through_relu(scaled, scaled);
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
    const T* y;       // the output of a ReLU that follows, or null
    R w, b;           // the group's scale and shift, where that output is recomputed

    __device__ R output(const Part& part, R z, const Offsets<3>& place) const {
        return y ? load(y[part.at[1] + place.at[1]]) : load(store<T>(z * w + b));
    }

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
            if ((y || p.flags & NORM_RELU) && k < count) g[k] = through_relu(output(part, z[k], places[k]), g[k]);
        }
    }
};

template <typename T>
__device__ inline void norm_grad(const Norm& p, const T* grad, const T* x, const T* weight, const T* bias, const T* y,
                                 const Compute<T>* mean, const Compute<T>* inv_std, T* out, T* masked, T* weight_grad,
                                 T* bias_grad, T* shift_grad, Sums<Compute<T>>* partial) {
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
        Pairs<T> pairs = {p, grad, x, inside ? weight : nullptr, mean, inv_std, R(0), R(0), y, R(1), R(0)};
        if (!(p.flags & NORM_STATS_INSIDE) && part.busy) {
            pairs.center = mean[group * p.vectors[MEAN]];
            pairs.scale = inv_std[group * p.vectors[INV_STD]];
        }
        if (!inside && part.busy) {
            if (weight) pairs.w = vector_at(p, weight, group * p.vectors[WEIGHT]);
            if (bias) pairs.b = vector_at(p, bias, group * p.vectors[BIAS_ITSELF]);
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
                    for (int k = 0; k < AT_ONCE<T>; ++k) {
                        batch = add(batch, Sums<R>{g[k], g[k] * z[k]});
                        if (masked && k < count) masked[part.at[1] + places[k].at[1]] = store<T>(g[k]);
                    }
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
                if (weight_grad) set_vector(p, weight_grad, group * p.vectors[WEIGHT_GRAD], sums.product);
                if (bias_grad) set_vector(p, bias_grad, group * p.vectors[BIAS], sums.grad);
                if (shift_grad) set_vector(p, shift_grad, group * p.vectors[SHIFT_GRAD], R(0));
            }
        }
        if (!out) continue;
        R factor = pairs.scale * pairs.w;
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
    KERNEL_OF(3) norm_groups_##name(BY_VALUE Norm p, const T* x, const T* weight, const T* bias, const T* residual, \
                              T* out, Compute<T>* mean, Compute<T>* inv_std, Compute<T>* running_mean,             \
                              Compute<T>* running_var, const T* shift, int64_t* count,                             \
                              Moments<Compute<T>>* partial) {                                                      \
        norm<T>(p, x, weight, bias, residual, out, mean, inv_std, {running_mean, running_var, shift, count}, partial); \
    }                                                                                                              \
    KERNEL_OF(3) norm_grad_groups_##name(BY_VALUE Norm p, const T* grad, const T* x, const T* weight, const T* bias, \
                                   const T* y, const Compute<T>* mean, const Compute<T>* inv_std, T* out,          \
                                   T* masked, T* weight_grad, T* bias_grad, T* shift_grad,                         \
                                   Sums<Compute<T>>* partial) {                                                    \
        norm_grad<T>(p, grad, x, weight, bias, y, mean, inv_std, out, masked, weight_grad, bias_grad, shift_grad,  \
                     partial);                                                                                     \
    }
FOR_FLOAT(NORM)
