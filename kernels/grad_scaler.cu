// What a gradient scaler does on the device: one launch for many gradients, and one that moves the scale.
#include "multi_tensor.cuh"

// `grads` of float. `Unscale::blocks` blocks.
FAMILY(unscale, Unscale step);
// `scale` of f32: the scale, how long it has been so (i32), whether an infinity was found (f32), the factors of growth and of
// backoff, and the interval of growth. One thread.
FAMILY(update, address scale, address tracker, address found_inf, f64 growth, f64 backoff, i64 interval);

template <typename T>
__device__ inline void unscale(const Unscale& p) {
    typedef Compute<T> R;
    TensorBlock block = tensor_block(p);
    T* grad = static_cast<T*>(p.slot[block.slot].grad) + block.start;
    bool writes = p.scale, found = false;
    R factor = writes ? (R)(1.0 / (f64)*p.scale) : R(1);
    for_elements<16 / sizeof(T)>(block, [&](auto width, uint32_t i) {
        constexpr int V = decltype(width)::value;
        R values[V];
        read_elements<V>(grad + i, values);
#pragma unroll
        for (int v = 0; v < V; ++v) {
            // The difference is 0 for finite numbers, else NaN.
            found = found || values[v] - values[v] != R(0);
            values[v] = values[v] * factor;
        }
        if (writes) write_elements<V>(grad + i, values);
    });
    if (found) atomicExch(reinterpret_cast<unsigned*>(p.found_inf), bit_cast<unsigned>(1.0f));
}

#define UNSCALE(name, T) \
    KERNEL unscale_grads_##name(BY_VALUE Unscale p) { unscale<T>(p); }
FOR_FLOAT(UNSCALE)

KERNEL update_scale_f32(f32* scale, i32* tracker, f32* found_inf, f64 growth, f64 backoff, i64 interval) {
    if (threadIdx.x != 0) return;
    if (*found_inf != 0.0f) {
        *scale = (f32)((f64)*scale * backoff);
        *tracker = 0;
    } else if (*tracker + 1 == interval) {
        f32 grown = (f32)((f64)*scale * growth);
        // Not beyond what f32 holds.
        if (grown - grown == 0.0f) *scale = grown;
        *tracker = 0;
    } else {
        *tracker += 1;
    }
    *found_inf = 0.0f;
}
