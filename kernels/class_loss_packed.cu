// Cross-entropy of rows of logits whose classes are adjacent in memory, with a label each, and its gradient: 16 bytes at a time,
// wherever a row begins. A team of threads reads a row once for its largest logit and the sum of the exponentials (online
// softmax: Milakov & Gimelshein, 2018). class_loss.cu has all other cases.
#include "loss.cuh"
#include "map.cuh"
#include "real.cuh"

// `labels` of f32 f16 bf16. There are no weights, no smoothing, and fewer than 2^31 classes.
FAMILY(class_loss_packed, ClassLoss shape, address x, address target, address loss, address lse, address total,
       address partial, address status);
// `labels` of f32 f16 bf16. As above; in each row `x` and `out` lie alike with respect to 16 bytes. grad may be null.
FAMILY(class_loss_packed_grad, ClassLoss shape, address grad, address x, address target, address lse, address total,
       address out);

// Where the packs of a row of n elements are: `head` elements come before `count` packs, and some after.
template <typename T>
struct Packs {
    static constexpr uint32_t V = 16 / sizeof(T);
    uint32_t n, head, count;

    __device__ Packs(const T* row, uint32_t n) : n(n), head((uint32_t)((0 - (uint64_t)row) % 16 / sizeof(T))) {
        if (head > n) head = n;
        count = (n - head) / V;
    }

    // Pack k of a row that lies like this one. Counting in packs lets the compiler see that they are aligned.
    __device__ const T* at(const T* row, uint32_t k) const {
        return reinterpret_cast<const T*>(reinterpret_cast<const uint4*>(row + head) + k);
    }
    __device__ T* at(T* row, uint32_t k) const {
        return reinterpret_cast<T*>(reinterpret_cast<uint4*>(row + head) + k);
    }

    // Calls `packs` with the number of each pack, and `ones` with the position of each element outside of them.
    template <typename P, typename O>
    __device__ void each(const Team& team, P packs, O ones) const {
#pragma unroll 1
        for (uint32_t k = team.lane; k < count; k += team.size) packs(k);
#pragma unroll 1
        for (uint32_t i = team.lane; i < n - count * V; i += team.size) ones(i < head ? i : i + count * V);
    }
};

// The largest of some logits, and the sum of the exponentials of their distances from it.
template <typename R>
struct Online {
    R largest, exps;

    // What distances are taken from: nothing is at a distance from -inf.
    __device__ R base() const { return largest == -(R)INFINITY ? R(0) : largest; }

    // A logit, or the largest of several that follow. NaN does not count here; it shows in the sum.
    __device__ void reach(R logit) {
        if (!(logit > largest)) return;
        exps = exps * real::exp(largest - logit);
        largest = logit;
    }
};

template <typename R>
__device__ inline Online<R> merge(Online<R> a, Online<R> b) {
    a.reach(b.largest);
    a.exps = a.exps + b.exps * (b.largest == a.largest ? R(1) : real::exp(b.largest - a.largest));
    return a;
}

template <typename R, int V>
__device__ inline R largest_of(const R (&values)[V]) {
    R best = values[0];
#pragma unroll
    for (int v = 1; v < V; ++v) best = fmaxf(best, values[v]);
    return best;
}

// A row with its label.
template <typename T>
struct LabeledRow {
    const T* x;
    int64_t row, label;
    bool busy, counts;

    __device__ LabeledRow(const ClassLoss& p, const T* x, const int64_t* target, uint64_t index, Status* status)
        : x(x + (int64_t)index * p.x[0]), row((int64_t)index), busy(index < p.samples) {
        label = busy ? target[row * p.target[0]] : 0;
        counts = busy && label_counts(label, p, status);
    }
};

template <typename T>
__device__ inline void class_loss_packed(const ClassLoss& p, const T* x, const int64_t* target, void* loss_memory,
                                         Compute<T>* lse, Compute<T>* total, Sums* partial, Status* status) {
    typedef Compute<T> R;
    constexpr int V = 16 / sizeof(T);
    __shared__ Online<R> shared[256];
    Losses<T> loss{loss_memory, p.wide != 0};
    Team team = team_of(p.lanes);
    uint64_t step = (uint64_t)gridDim.x * team.teams;
    uint32_t classes = (uint32_t)p.classes;
    Sums sums = {0, 0};
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < p.samples; first += step) {
        LabeledRow<T> row(p, x, target, first + team.index, team.lane == 0 ? status : nullptr);
        Online<R> own = {-(R)INFINITY, R(0)};
        if (row.counts) {
            Packs<T> packs(row.x, classes);
            packs.each(
                team,
                [&](uint32_t k) {
                    R values[V], sum = R(0);
                    tensor(packs.at(row.x, k)).pack(0, values);
                    own.reach(largest_of(values));
                    R base = own.base();
#pragma unroll
                    for (int v = 0; v < V; ++v) sum += power_in_sum<T>(values[v] - base);
                    own.exps += sum;
                },
                [&](uint32_t i) {
                    R value = load(row.x[i]);
                    own.reach(value);
                    own.exps += power_in_sum<T>(value - own.base());
                });
        }
        own = fold_team(team, shared, own, merge<R>);
        R value = R(0), spread = R(0);
        if (row.counts) {
            spread = real::log(own.exps);
            value = spread - (load(row.x[row.label]) - own.largest);
        }
        if (row.busy && team.lane == 0) {
            lse[row.row * p.lse[0]] = spread;
            if (p.reduction == REDUCTION_NONE) loss.put(row.row * p.loss[0], value);
            sums = add_sums(sums, Sums{(f64)value, row.counts ? 1.0 : 0.0});
        }
    }
    finish_rows<T>(sums, 0.0, p.reduction, loss, total, partial);
}

template <typename T>
__device__ inline void class_loss_packed_grad(const ClassLoss& p, void* grad, const T* x, const int64_t* target,
                                              const Compute<T>* lse, const Compute<T>* total, T* out) {
    typedef Compute<T> R;
    constexpr int V = 16 / sizeof(T);
    __shared__ R shared[256];
    Team team = team_of(p.lanes);
    uint64_t step = (uint64_t)gridDim.x * team.teams;
    uint32_t classes = (uint32_t)p.classes;
    R scale = p.reduction == REDUCTION_MEAN ? R(1) / *total : R(1);
    for (uint64_t first = (uint64_t)blockIdx.x * team.teams; first < p.samples; first += step) {
        LabeledRow<T> row(p, x, target, first + team.index, nullptr);
        Packs<T> packs(row.x, classes);
        R largest = -(R)INFINITY;
        if (row.counts) {
            packs.each(
                team,
                [&](uint32_t k) {
                    R values[V];
                    tensor(packs.at(row.x, k)).pack(0, values);
                    largest = fmaxf(largest, largest_of(values));
                },
                [&](uint32_t i) { largest = fmaxf(largest, load(row.x[i])); });
        }
        largest = fold_team(team, shared, largest, [](R a, R b) { return fmaxf(a, b); });
        if (!row.busy) continue;
        T* to = out + row.row * p.out[0];
        if (!row.counts) {
            for (uint32_t i = team.lane; i < classes; i += team.size) to[i] = store<T>(R(0));
            continue;
        }
        R g = scale * (grad ? Losses<T>{grad, p.wide != 0}.get(row.row * p.loss[0]) : R(1)), spread = lse[row.row * p.lse[0]];
        uint32_t label = (uint32_t)row.label;
        packs.each(
            team,
            [&](uint32_t k) {
                R values[V];
                Pack<T, V> pack;
                tensor(packs.at(row.x, k)).pack(0, values);
#pragma unroll
                for (int v = 0; v < V; ++v) values[v] = g * power<T>((values[v] - largest) - spread);
                uint32_t place = label - (packs.head + k * V);
                if (place < (uint32_t)V) {
#pragma unroll
                    for (int v = 0; v < V; ++v) {
                        if (place == (uint32_t)v) values[v] = values[v] - g;
                    }
                }
#pragma unroll
                for (int v = 0; v < V; ++v) pack.elements[v] = store<T>(values[v]);
                write_pack(packs.at(to, k), pack);
            },
            [&](uint32_t i) {
                R slope = g * power<T>((load(row.x[i]) - largest) - spread);
                to[i] = store<T>(i == label ? slope - g : slope);
            });
    }
}

#define CLASS_LOSS_PACKED(name, T)                                                                                   \
    KERNEL class_loss_packed_labels_##name(BY_VALUE ClassLoss p, const T* x, const int64_t* target, void* loss,      \
                                           Compute<T>* lse, Compute<T>* total, Sums* partial, Status* status) {      \
        class_loss_packed<T>(p, x, target, loss, lse, total, partial, status);                                       \
    }                                                                                                                \
    KERNEL class_loss_packed_grad_labels_##name(BY_VALUE ClassLoss p, void* grad, const T* x,                        \
                                                const int64_t* target, const Compute<T>* lse, const Compute<T>* total, \
                                                T* out) {                                                            \
        class_loss_packed_grad<T>(p, grad, x, target, lse, total, out);                                              \
    }
CLASS_LOSS_PACKED(f32, f32)
FOR_HALF(CLASS_LOSS_PACKED)
