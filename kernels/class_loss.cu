// Cross-entropy and negative log-likelihood, forward and backward, one launch each. One team of threads per row of
// classes.
//
// With m the largest logit and spread = ln(sum(exp(x - m))), the logarithm of a probability is (x - m) - spread. The
// spread is saved for the gradient (as `lse`): with logits around 1e4, m + spread would lose three of the seven digits
// of f32. A NaN or an infinite logit makes the row NaN, as in PyTorch.
#include "loss.cuh"
#include "real.cuh"

// `labels probs` of float. weight, grad and `partial` may be null. With grad, the gradient of x for a gradient of the loss of
// 1, there must be one block.
FAMILY(class_loss, ClassLoss shape, address x, address target, address weight, address loss, address lse,
       address total, address grad, address partial, address status);
// `labels probs` of float. weight and grad may be null: without grad, the gradient of the loss is 1.
FAMILY(class_loss_grad, ClassLoss shape, address grad, address x, address target, address weight, address lse,
       address total, address out);
// `sum` of float, that of the scores. One block. `total` may be null.
FAMILY(loss_finish, LossFinish shape, address partial, address loss, address total);

constexpr bool LABELS = true;
constexpr bool PROBS = false;

// A lane's partial sums for the loss of a row.
template <typename R>
struct Row {
    R exps;   // sum of exponentials of the distances from the largest logit
    R dot;    // sum of distances times coefficients
    R mass;   // sum of coefficients
};

template <typename R>
__device__ inline Row<R> add_rows(Row<R> a, Row<R> b) {
    return Row<R>{a.exps + b.exps, a.dot + b.dot, a.mass + b.mass};
}

// A row of the input [N, C, S] with its operands.
template <typename T, bool Labels>
struct Problem {
    typedef Compute<T> R;
    const ClassLoss& p;
    const T* x;
    const void* target;
    const T* weight;
    uint64_t sample, position;

    __device__ R logit(uint64_t c) const {
        return load(x[(int64_t)sample * p.x[0] + (int64_t)c * p.x[1] + (int64_t)position * p.x[2]]);
    }
    __device__ int64_t target_at(uint64_t c) const {
        return (int64_t)sample * p.target[0] + (int64_t)c * p.target[1] + (int64_t)position * p.target[2];
    }
    __device__ int64_t label() const { return static_cast<const int64_t*>(target)[target_at(0)]; }
    __device__ R weight_of(uint64_t c) const { return weight ? load(weight[(int64_t)c * p.weight]) : R(1); }
    // The factor of the log-probability of class c; for labels, only the share that smoothing gives to every class.
    __device__ R coefficient(uint64_t c) const {
        if (Labels) return weight_of(c);
        R t = load(static_cast<const T*>(target)[target_at(c)]);
        return (t * (R)p.kept + (R)p.share) * weight_of(c);
    }
    __device__ R largest(const Team& team, R* shared, bool counts) const {
        R best = -(R)INFINITY;
        if (counts) {
            for (uint64_t c = team.lane; c < p.classes; c += team.size) {
                R v = logit(c);
                // NaN is skipped here: it shows in the sum of exponentials.
                best = v > best ? v : best;
            }
        }
        return fold_team(team, shared, best, [](R a, R b) { return a > b ? a : b; });
    }
};

template <typename T, bool Labels>
__device__ inline void class_loss(const ClassLoss& p, const T* x, const void* target, const T* weight, void* loss_memory,
                                  Compute<T>* lse, Compute<T>* total, Sums* partial, Status* status) {
    typedef Compute<T> R;
    __shared__ R largest_shared[256];
    __shared__ Row<R> row_shared[256];
    Losses<T> loss{loss_memory, p.wide != 0};
    Team team = team_of(p.lanes);
    uint64_t rows = p.samples * p.positions.extent, step = (uint64_t)gridDim.x * team.teams;
    bool smooth = !Labels || p.share > 0;
    Sums sums = {0, 0};
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < rows; first += step) {
        uint64_t row = first + team.index;
        bool busy = row < rows;
        uint64_t sample = busy ? divide(row, p.positions, true) : 0;
        Problem<T, Labels> problem{p, x, target, weight, sample, busy ? row - sample * p.positions.extent : 0};
        int64_t label = Labels && busy ? problem.label() : 0;
        bool counts = busy && (!Labels || label_counts(label, p, team.lane == 0 ? status : nullptr));
        R value = R(0), spread = R(0), label_weight = Labels && counts ? problem.weight_of((uint64_t)label) : R(0);
        if (p.logits) {
            R largest = problem.largest(team, largest_shared, counts);
            Row<R> own = {R(0), R(0), R(0)};
            for (uint64_t c = team.lane; counts && c < p.classes;) {
                Row<R> batch = {R(0), R(0), R(0)};
                for (int k = 0; k < BATCH && c < p.classes; ++k, c += team.size) {
                    R distance = problem.logit(c) - largest, coefficient = smooth ? problem.coefficient(c) : R(0);
                    R term = smooth ? distance * coefficient : R(0);
                    batch = add_rows(batch, Row<R>{real::exp(distance), term, coefficient});
                }
                own = add_rows(own, batch);
            }
            own = fold_team(team, row_shared, own, add_rows<R>);
            if (counts) {
                spread = real::log(own.exps);
                if (Labels) {
                    value = label_weight * (spread - (problem.logit((uint64_t)label) - largest));
                    if (smooth) value = (R)p.kept * value + (R)p.share * (own.mass * spread - own.dot);
                } else {
                    value = own.mass * spread - own.dot;
                }
            }
        } else if (counts) {
            value = -(label_weight * problem.logit((uint64_t)label));
        }
        if (busy && team.lane == 0) {
            lse[(int64_t)sample * p.lse[0] + (int64_t)problem.position * p.lse[1]] = spread;
            if (p.reduction == REDUCTION_NONE) {
                loss.put((int64_t)sample * p.loss[0] + (int64_t)problem.position * p.loss[1], value);
            }
            sums = add_sums(sums, Sums{(f64)value, Labels ? (f64)label_weight : 1.0});
        }
    }
    finish_rows<T>(sums, Labels ? 0.0 : (f64)rows, p.reduction, loss, total, partial);
}

template <typename T, bool Labels>
__device__ inline void class_loss_grad(const ClassLoss& p, void* grad, const T* x, const void* target,
                                       const T* weight, const Compute<T>* lse, const Compute<T>* total, T* out) {
    typedef Compute<T> R;
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    uint64_t rows = p.samples * p.positions.extent, step = (uint64_t)gridDim.x * team.teams;
    bool smooth = Labels && p.share > 0;
    R scale = p.reduction == REDUCTION_MEAN ? R(1) / *total : R(1);
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < rows; first += step) {
        uint64_t row = first + team.index;
        bool busy = row < rows;
        uint64_t sample = busy ? divide(row, p.positions, true) : 0;
        Problem<T, Labels> problem{p, x, target, weight, sample, busy ? row - sample * p.positions.extent : 0};
        int64_t at = (int64_t)sample * p.out[0] + (int64_t)problem.position * p.out[2];
        int64_t label = Labels && busy ? problem.label() : 0;
        bool counts = busy && (!Labels || label_counts(label, p, nullptr));
        R g = R(0), spread = R(0), largest = R(0), mass = R(0);
        if (counts) {
            int64_t own = (int64_t)sample * p.loss[0] + (int64_t)problem.position * p.loss[1];
            g = scale * (grad ? Losses<T>{grad, p.wide != 0}.get(own) : R(1));
            spread = lse[(int64_t)sample * p.lse[0] + (int64_t)problem.position * p.lse[1]];
        }
        if (p.logits) {
            largest = problem.largest(team, shared, counts);
            if (!Labels || smooth) {
                R own = R(0);
                for (uint64_t c = team.lane; counts && c < p.classes; c += team.size) own += problem.coefficient(c);
                mass = fold_team(team, shared, own, [](R a, R b) { return a + b; });
            }
        }
        // The coefficients of the label, of the probabilities, and of the weights of all classes.
        R own = Labels && counts ? g * problem.weight_of((uint64_t)label) : R(0), push = own, share = R(0);
        if (!Labels) {
            push = mass * g;
            share = g;
        } else if (smooth) {
            own = own * (R)p.kept;
            share = g * (R)p.share;
            push = own + share * mass;
        }
        for (uint64_t c = team.lane; busy && c < p.classes; c += team.size) {
            R slope = R(0);
            if (counts && p.logits) {
                R probability = real::exp((problem.logit(c) - largest) - spread);
                slope = push * probability;
                if (!Labels || smooth) slope = slope - share * problem.coefficient(c);
            }
            if (Labels && counts && (int64_t)c == label) slope = slope - own;
            out[at + (int64_t)c * p.out[1]] = store<T>(slope);
        }
    }
}

#define CLASS_LOSS(op, labels, name, T)                                                                            \
    KERNEL_OF(4) class_loss_##op##_##name(BY_VALUE ClassLoss p, const T* x, const void* target, const T* weight,   \
                                          void* loss, Compute<T>* lse, Compute<T>* total, T* grad, Sums* partial,  \
                                          Status* status) {                                                        \
        class_loss<T, labels>(p, x, target, weight, loss, lse, total, partial, status);                            \
        if (grad) {                                                                                                \
            /* What this block has written is read by all of its threads. */                                       \
            __syncthreads();                                                                                       \
            class_loss_grad<T, labels>(p, nullptr, x, target, weight, lse, total, grad);                           \
        }                                                                                                          \
    }                                                                                                              \
    KERNEL class_loss_grad_##op##_##name(BY_VALUE ClassLoss p, void* grad, const T* x, const void* target,         \
                                         const T* weight, const Compute<T>* lse, const Compute<T>* total, T* out) {\
        class_loss_grad<T, labels>(p, grad, x, target, weight, lse, total, out);                                   \
    }
#define ALL_LOSSES(name, T)                                                                                        \
    CLASS_LOSS(labels, LABELS, name, T)                                                                            \
    CLASS_LOSS(probs, PROBS, name, T)                                                                              \
    KERNEL loss_finish_sum_##name(BY_VALUE LossFinish p, const Sums* partial, void* loss, Compute<T>* total) {     \
        Sums sums = {0, 0};                                                                                        \
        for (uint64_t i = threadIdx.x; i < p.blocks; i += 256) sums = add_sums(sums, partial[i]);                  \
        sums = fold_block(sums);                                                                                   \
        if (threadIdx.x == 0) finish_loss<T>(sums, p.count, p.reduction, Losses<T>{loss, p.wide != 0}, total);     \
    }
FOR_FLOAT(ALL_LOSSES)
