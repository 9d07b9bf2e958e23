// Optimizer steps for all parameters of a group in one launch. The formulas follow the CPU backend's, which follow
// PyTorch's single-tensor implementations.
#include "multi_tensor.cuh"
#include "real.cuh"

// `sgd adam rmsprop adagrad` of float; and of f32 with gradients in half precision, as in `sgd_bf16`, except where a slot says
// OPTIM_SLOT_OWN_GRAD. `Optim::blocks` blocks, but at least one: it counts the step.
FAMILY(optim, Optim step);

// from + weight (to - from), in the form that is exact at the nearer end, as torch.lerp.
template <typename R>
__device__ inline R lerp(R from, R to, R weight) {
    R difference = to - from;
    return weight < R(0.5) ? from + weight * difference : to - difference * (R(1) - weight);
}

// The rules. Each computes its step's constants from the learning rate and `n`, the parameter's step count including
// this step; and the new parameter from the old one, the gradient and S states, from `min_states` to `max_states` of them:
// how many there are tells which variant of the rule it is. `decay` is the scalar that holds the weight decay.
template <typename R>
struct Sgd {  // momentum, 1 - dampening, weight decay
    static constexpr int decay = 2, min_states = 0, max_states = 1;
    static __device__ void rates(const Optim&, f64 lr, f64 n, f64* r) {
        r[0] = lr;
        r[1] = n <= 1;
    }
    template <int S>
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        R step = grad, momentum = (R)p.scalars[0];
        if (S == 1) {
            s[0] = r[1] != R(0) ? grad : momentum * s[0] + (R)p.scalars[1] * grad;
            step = p.flags & OPTIM_NESTEROV ? grad + momentum * s[0] : s[0];
        }
        return param - r[0] * step;
    }
};

template <typename R>
struct Adam {  // beta1, beta2, eps, weight decay, decoupled weight decay
    static constexpr int decay = 3, min_states = 2, max_states = 3;
    static __device__ void rates(const Optim& p, f64 lr, f64 n, f64* r) {
        r[0] = lr / (1.0 - real::pow(p.scalars[0], n));
        r[1] = real::sqrt(1.0 - real::pow(p.scalars[1], n));
        r[2] = 1.0 - lr * p.scalars[4];
    }
    template <int S>
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        s[0] = lerp(s[0], grad, (R)(1.0 - p.scalars[0]));
        s[1] = s[1] * (R)p.scalars[1] + (R)(1.0 - p.scalars[1]) * grad * grad;
        R second = s[1];
        if (S == 3) {  // amsgrad
            s[2] = real::maximum(s[2], s[1]);
            second = s[2];
        }
        R denominator = real::sqrt(second) / r[1] + (R)p.scalars[2];
        return r[2] * param - r[0] * s[0] / denominator;
    }
};

template <typename R>
struct RmsProp {  // alpha, 1 - alpha, eps, momentum, weight decay; the states in use are the first ones
    static constexpr int decay = 4, min_states = 1, max_states = 3;
    static __device__ void rates(const Optim&, f64 lr, f64, f64* r) { r[0] = lr; }
    template <int S>
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        bool centered = S == 3 || (S == 2 && (p.flags & OPTIM_CENTERED)), momentum = S == 3 || (S == 2 && !centered);
        s[0] = s[0] * (R)p.scalars[0] + (R)p.scalars[1] * grad * grad;
        R square = s[0];
        if (centered) {
            s[1] = lerp(s[1], grad, (R)p.scalars[1]);
            square = square - s[1] * s[1];
        }
        R average = real::sqrt(square) + (R)p.scalars[2];
        if (!momentum) return param - r[0] * grad / average;
        R buffer = (centered ? s[2] : s[1]) * (R)p.scalars[3] + grad / average;
        if (centered) {
            s[2] = buffer;
        } else {
            s[1] = buffer;
        }
        return param - r[0] * buffer;
    }
};

template <typename R>
struct Adagrad {  // eps, weight decay, decay of the learning rate
    static constexpr int decay = 1, min_states = 1, max_states = 1;
    static __device__ void rates(const Optim& p, f64 lr, f64 n, f64* r) {
        r[0] = lr / (1.0 + (n - 1.0) * p.scalars[2]);
    }
    template <int S>
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        s[0] = s[0] + grad * grad;
        return param - r[0] * grad / (real::sqrt(s[0]) + (R)p.scalars[0]);
    }
};

// Counts the step, unless it was skipped, once all blocks have read the counts: the last block to arrive does it. All threads
// of a block call it.
__device__ inline void move_on(const Optim& p, bool skipped) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(&p.progress->arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    for (uint32_t k = threadIdx.x; !skipped && k < p.slots; k += blockDim.x) atomicAdd(p.slot[k].count, 1ull);
    if (threadIdx.x == 0) {
        p.progress->offset += p.drawn;
        atomicExch(&p.progress->arrived, 0u);
    }
}

// What is the same for all elements of a block.
template <typename T, typename G>
struct OptimBlock {
    typedef Compute<T> R;
    const Optim& p;
    T* param;
    const G* grad;
    T* states[3];
    // Where the rounded parameter goes, and whether as f16.
    uint16_t* low;
    bool low_f16;
    // The rule's constants, the factor of gradients, and the weight decay.
    R r[3], factor, decay;

    // Updates V elements from the i-th on.
    template <typename Rule, int S, int V>
    __device__ void update(uint32_t i) const {
        R value[V], g[V], state[S > 0 ? S : 1][V];
        read_elements<V>(param + i, value);
        read_elements<V>(grad + i, g);
#pragma unroll
        for (int k = 0; k < S; ++k) read_elements<V>(states[k] + i, state[k]);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            R s[3], step = g[v] * factor;
#pragma unroll
            for (int k = 0; k < 3; ++k) s[k] = k < S ? state[k < S ? k : 0][v] : R(0);
            // Without decay an infinite parameter must not make the gradient NaN.
            if (decay != R(0)) step = step + decay * value[v];
            value[v] = Rule::template update<S>(p, r, value[v], step, s);
#pragma unroll
            for (int k = 0; k < S; ++k) state[k][v] = s[k];
        }
        write_elements<V>(param + i, value);
#pragma unroll
        for (int k = 0; k < S; ++k) write_elements<V>(states[k] + i, state[k]);
        if constexpr (sizeof(T) == 4 && S < 3) {
            if (low && low_f16) write_elements<V>(reinterpret_cast<f16*>(low) + i, value);
            if (low && !low_f16) write_elements<V>(reinterpret_cast<bf16*>(low) + i, value);
        }
    }

    // Updates all elements of the block by the variant of the rule that has S states.
    template <typename Rule, int S>
    __device__ void update_all(int count, const TensorBlock& block) const {
        if constexpr (S >= Rule::min_states && S <= Rule::max_states) {
            if (S != count) return;
            // With three states, as many as fill a vector of gradients in half precision would not fit into registers.
            constexpr int V = 16 / (S < 3 ? sizeof(G) : sizeof(T));
            for_elements<V>(block, [&](auto width, uint32_t i) { update<Rule, S, decltype(width)::value>(i); });
        }
    }
};

// Updates a block's part of a slot, whose gradient is of type G.
template <typename T, typename G, typename Rule>
__device__ inline void update_block(const Optim& p, const OptimSlot& slot, const TensorBlock& block, const f64* rates) {
    typedef Compute<T> R;
    OptimBlock<T, G> all{p, static_cast<T*>(slot.param) + block.start, static_cast<const G*>(slot.grad) + block.start};
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        all.states[k] = static_cast<T*>(slot.states[k]) + block.start;
        all.r[k] = (R)rates[k];
    }
    R factor = p.scale ? (R)(1.0 / (f64)*p.scale) : R(1);
    all.factor = p.flags & OPTIM_MAXIMIZE ? -factor : factor;
    all.decay = (R)p.scalars[Rule::decay];
    int states = (int)(p.flags >> OPTIM_STATES);
    all.low_f16 = slot.tail & OPTIM_SLOT_LOW_F16;
    all.low = nullptr;
    if (states < 3 && (slot.tail & (OPTIM_SLOT_LOW_F16 | OPTIM_SLOT_LOW_BF16))) {
        all.low = static_cast<uint16_t*>(slot.states[states]) + block.start;
    }
    all.template update_all<Rule, 0>(states, block);
    all.template update_all<Rule, 1>(states, block);
    all.template update_all<Rule, 2>(states, block);
    all.template update_all<Rule, 3>(states, block);
}

template <typename T, typename G, typename Rule>
__device__ inline void optimize(const Optim& p) {
    __shared__ f64 rates[3];
    if (p.found_inf && *p.found_inf != 0.0f) {
        move_on(p, true);
        return;
    }
    TensorBlock block = tensor_block(p);
    const OptimSlot& slot = p.slot[block.slot];
    // In f64, as in Python, and once per block.
    if (threadIdx.x == 0) {
        rates[1] = rates[2] = 0.0;
        Rule::rates(p, *p.lr, (f64)(int64_t)(atomicAdd(slot.count, 0ull) + 1), rates);
    }
    __syncthreads();
    if (sizeof(G) != sizeof(T) && (slot.tail & OPTIM_SLOT_OWN_GRAD)) {
        update_block<T, T, Rule>(p, slot, block, rates);
    } else {
        update_block<T, G, Rule>(p, slot, block, rates);
    }
    move_on(p, false);
}

#define OPTIM(op, Rule, name, T, G) \
    KERNEL_OF(3) optim_##op##_##name(BY_VALUE Optim p) { optimize<T, G, Rule<Compute<T>>>(p); }
#define EVERY(name, T)                     \
    OPTIM(sgd, Sgd, name, T, T)            \
    OPTIM(adam, Adam, name, T, T)          \
    OPTIM(rmsprop, RmsProp, name, T, T)    \
    OPTIM(adagrad, Adagrad, name, T, T)
FOR_FLOAT(EVERY)
// Parameters in f32, most of them with gradients in half precision.
#define MIXED(name, G)                           \
    OPTIM(sgd_##name, Sgd, f32, f32, G)          \
    OPTIM(adam_##name, Adam, f32, f32, G)        \
    OPTIM(rmsprop_##name, RmsProp, f32, f32, G)  \
    OPTIM(adagrad_##name, Adagrad, f32, f32, G)
FOR_HALF(MIXED)
