// Element-wise losses and their gradients: `LOSS(name, value, slope)` from input x, target t, weight w and weight of
// positives p.
#include "loss.cuh"
#include "map.cuh"
#include "real.cuh"

// `mse l1 bce` of float. weight, pos_weight and `partial` may be null.
FAMILY(pointwise_loss, Grid<5> grid, address input, address target, address weight, address pos_weight, address out,
       address partial, u32 reduction);
// `mse l1 bce` of float. weight and pos_weight may be null.
FAMILY(pointwise_loss_grad, Grid<6> grid, address grad, address input, address target, address weight,
       address pos_weight, address out, f64 scale);

template <typename T, typename F>
__device__ inline void pointwise(const Grid<5>& grid, const T* input, const T* target, const T* weight,
                                 const T* pos_weight, T* out, Sums* partial, uint32_t reduction, F f) {
    typedef Compute<T> R;
    Input<T> w{weight, R(1)}, p{pos_weight, R(1)};
    Sums sums = {0, 0};
    for (uint64_t i = thread_index(); i < grid.numel;) {
        R batch = R(0);
        for (int k = 0; k < BATCH && i < grid.numel; ++k, i += thread_count()) {
            Offsets<5> at = locate(grid, i);
            R value = f(load(input[at.at[0]]), load(target[at.at[1]]), w.at(at.at[2]), p.at(at.at[3]));
            if (reduction == REDUCTION_NONE) {
                out[at.at[4]] = store<T>(value);
            } else {
                batch += value;
            }
        }
        sums.loss += (f64)batch;
    }
    if (reduction == REDUCTION_NONE) return;
    sums = fold_block(sums);
    if (threadIdx.x == 0) {
        if (gridDim.x == 1) {
            finish_loss<T>(sums, (f64)grid.numel, reduction, Losses<T>{out, false}, nullptr);
        } else {
            partial[blockIdx.x] = sums;
        }
    }
}

#define DEFINE(name, T, op, value, slope)                                                                           \
    KERNEL pointwise_loss_##op##_##name(BY_VALUE Grid<5> grid, const T* input, const T* target, const T* weight,    \
                                        const T* pos_weight, T* out, Sums* partial, uint32_t reduction) {           \
        typedef Compute<T> R;                                                                                       \
        pointwise(grid, input, target, weight, pos_weight, out, partial, reduction,                                 \
                  [](R x, R t, R w, R p) -> R { return value; });                                                   \
    }                                                                                                               \
    KERNEL pointwise_loss_grad_##op##_##name(BY_VALUE Grid<6> grid, const T* grad, const T* input, const T* target, \
                                             const T* weight, const T* pos_weight, T* out, f64 factor) {            \
        typedef Compute<T> R;                                                                                       \
        Input<T> weights{weight, R(1)}, positives{pos_weight, R(1)};                                                \
        R scale = (R)factor;                                                                                        \
        for (uint64_t i = thread_index(); i < grid.numel; i += thread_count()) {                                    \
            Offsets<6> at = locate(grid, i);                                                                        \
            R g = load(grad[at.at[0]]), x = load(input[at.at[1]]), t = load(target[at.at[2]]);                      \
            R w = weights.at(at.at[3]), p = positives.at(at.at[4]);                                                 \
            out[at.at[5]] = store<T>(slope);                                                                        \
        }                                                                                                           \
    }
#define LOSS(op, value, slope) FOR_FLOAT(DEFINE, op, value, slope)

// -w (p t log(sigmoid(x)) + (1 - t) log(1 - sigmoid(x))); the argument of the exponential is never positive.
template <typename R>
__device__ inline R binary_loss(R x, R t, R w, R p) {
    R positive = real::log1p(real::exp(-real::abs(x))) + (x < R(0) ? -x : R(0));
    return w * ((R(1) - t) * x + ((p - R(1)) * t + R(1)) * positive);
}

template <typename R>
__device__ inline R binary_slope(R x, R t, R w, R p) {
    return (((p - R(1)) * t + R(1)) * real::sigmoid(x) - p * t) * w;
}

LOSS(mse, (x - t) * (x - t), scale * R(2) * (x - t) * g)
LOSS(l1, real::abs(x - t), real::sign(x - t) * scale * g)
LOSS(bce, binary_loss(x, t, w, p), binary_slope(x, t, w, p) * scale * g)
