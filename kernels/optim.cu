// Optimizer steps for all parameters of a group in one launch. The formulas follow the CPU backend's, which follow
// PyTorch's single-tensor implementations.
#include "map.cuh"
#include "real.cuh"

// `sgd adam rmsprop adagrad` of float. `Optim::blocks` blocks, but at least one: it counts the step.
FAMILY(optim, Optim step);

// from + weight (to - from), in the form that is exact at the nearer end, as torch.lerp.
template <typename R>
__device__ inline R lerp(R from, R to, R weight) {
    R difference = to - from;
    return weight < R(0.5) ? from + weight * difference : to - difference * (R(1) - weight);
}

// The rules. Each computes its step's constants from the learning rate and `n`, the parameter's step count including
// this step; and the new parameter from the old one, the gradient and up to three states. `decay` is the scalar that
// holds the weight decay.
template <typename R>
struct Sgd {  // momentum, 1 - dampening, weight decay
    static constexpr int decay = 2;
    static __device__ void rates(const Optim&, f64 lr, f64 n, f64* r) {
        r[0] = lr;
        r[1] = n <= 1;
    }
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        R step = grad, momentum = (R)p.scalars[0];
        if (p.flags & OPTIM_MOMENTUM) {
            s[0] = r[1] != R(0) ? grad : momentum * s[0] + (R)p.scalars[1] * grad;
            step = p.flags & OPTIM_NESTEROV ? grad + momentum * s[0] : s[0];
        }
        return param - r[0] * step;
    }
    static __device__ int states(const Optim& p) { return p.flags & OPTIM_MOMENTUM ? 1 : 0; }
};

template <typename R>
struct Adam {  // beta1, beta2, eps, weight decay, decoupled weight decay
    static constexpr int decay = 3;
    static __device__ void rates(const Optim& p, f64 lr, f64 n, f64* r) {
        r[0] = lr / (1.0 - real::pow(p.scalars[0], n));
        r[1] = real::sqrt(1.0 - real::pow(p.scalars[1], n));
        r[2] = 1.0 - lr * p.scalars[4];
    }
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        s[0] = lerp(s[0], grad, (R)(1.0 - p.scalars[0]));
        s[1] = s[1] * (R)p.scalars[1] + (R)(1.0 - p.scalars[1]) * grad * grad;
        R second = s[1];
        if (p.flags & OPTIM_AMSGRAD) {
            s[2] = real::maximum(s[2], s[1]);
            second = s[2];
        }
        R denominator = real::sqrt(second) / r[1] + (R)p.scalars[2];
        return r[2] * param - r[0] * s[0] / denominator;
    }
    static __device__ int states(const Optim& p) { return p.flags & OPTIM_AMSGRAD ? 3 : 2; }
};

template <typename R>
struct RmsProp {  // alpha, 1 - alpha, eps, momentum, weight decay; the states in use are the first ones
    static constexpr int decay = 4;
    static __device__ void rates(const Optim&, f64 lr, f64, f64* r) { r[0] = lr; }
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        bool centered = p.flags & OPTIM_CENTERED;
        s[0] = s[0] * (R)p.scalars[0] + (R)p.scalars[1] * grad * grad;
        R square = s[0];
        if (centered) {
            s[1] = lerp(s[1], grad, (R)p.scalars[1]);
            square = square - s[1] * s[1];
        }
        R average = real::sqrt(square) + (R)p.scalars[2];
        if (!(p.flags & OPTIM_MOMENTUM)) return param - r[0] * grad / average;
        R buffer = (centered ? s[2] : s[1]) * (R)p.scalars[3] + grad / average;
        if (centered) {
            s[2] = buffer;
        } else {
            s[1] = buffer;
        }
        return param - r[0] * buffer;
    }
    static __device__ int states(const Optim& p) {
        return 1 + (p.flags & OPTIM_CENTERED ? 1 : 0) + (p.flags & OPTIM_MOMENTUM ? 1 : 0);
    }
};

template <typename R>
struct Adagrad {  // eps, weight decay, decay of the learning rate
    static constexpr int decay = 1;
    static __device__ void rates(const Optim& p, f64 lr, f64 n, f64* r) {
        r[0] = lr / (1.0 + (n - 1.0) * p.scalars[2]);
    }
    static __device__ R update(const Optim& p, const R (&r)[3], R param, R grad, R (&s)[3]) {
        s[0] = s[0] + grad * grad;
        return param - r[0] * grad / (real::sqrt(s[0]) + (R)p.scalars[0]);
    }
    static __device__ int states(const Optim&) { return 1; }
};

// Counts the step, once all blocks have read the counts: the last block to arrive does it. All threads of a block call
// it.
__device__ inline void move_on(const Optim& p) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(&p.progress->arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    for (uint32_t k = threadIdx.x; k < p.slots; k += blockDim.x) atomicAdd(p.slot[k].count, 1ull);
    if (threadIdx.x == 0) {
        p.progress->offset += p.drawn;
        atomicExch(&p.progress->arrived, 0u);
    }
}

template <typename T, typename Rule>
__device__ inline void optimize(const Optim& p) {
    typedef Compute<T> R;
    __shared__ f64 rates[3];
    // Finds the last slot that begins at this block or before it.
    int low = 0, high = (int)p.slots - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (p.slot[middle].first_block <= blockIdx.x) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const OptimSlot& slot = p.slot[low];
    // In f64, as in Python, and once per block.
    if (threadIdx.x == 0) {
        rates[1] = rates[2] = 0.0;
        Rule::rates(p, *p.lr, (f64)(int64_t)(atomicAdd(slot.count, 0ull) + 1), rates);
    }
    __syncthreads();
    R r[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) r[k] = (R)rates[k];
    T* param = static_cast<T*>(slot.param);
    const T* grads = static_cast<const T*>(slot.grad);
    int states = Rule::states(p);
    R decay = (R)p.scalars[Rule::decay];
    uint32_t next = low + 1 < (int)p.slots ? p.slot[low + 1].first_block : p.blocks;
    uint64_t start = (uint64_t)(blockIdx.x - slot.first_block) * OPTIM_BLOCK;
    uint64_t end = start + (blockIdx.x + 1 < next ? OPTIM_BLOCK : slot.tail);
#pragma unroll 1
    for (uint64_t i = start + threadIdx.x; i < end; i += blockDim.x) {
        R s[3];
#pragma unroll
        for (int k = 0; k < 3; ++k) s[k] = k < states ? load(static_cast<const T*>(slot.states[k])[i]) : R(0);
        R value = load(param[i]), grad = load(grads[i]);
        if (p.flags & OPTIM_MAXIMIZE) grad = -grad;
        // Without decay an infinite parameter must not make the gradient NaN.
        if (decay != R(0)) grad = grad + decay * value;
        param[i] = store<T>(Rule::update(p, r, value, grad, s));
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            if (k < states) static_cast<T*>(slot.states[k])[i] = store<T>(s[k]);
        }
    }
    move_on(p);
}

#define OPTIM(op, Rule, name, T) \
    KERNEL optim_##op##_##name(BY_VALUE Optim p) { optimize<T, Rule<Compute<T>>>(p); }
#define EVERY(name, T)                  \
    OPTIM(sgd, Sgd, name, T)            \
    OPTIM(adam, Adam, name, T)          \
    OPTIM(rmsprop, RmsProp, name, T)    \
    OPTIM(adagrad, Adagrad, name, T)
FOR_FLOAT(EVERY)
