// Two-dimensional pooling of images [N, C, H, W] with any strides. A thread takes one element of the result: of the
// pooled image forward; of the input's gradient backward, where it gathers the contributions of all windows. So no
// atomics are needed, and gradients are the same in every run.
#include "common.cuh"

// `largest` of float. `indices` may be null: positions in the plane (i64), or with POOL_TAPS tap numbers (u8).
FAMILY(max_pool, Pool pool, address x, address out, address indices);
// `gather` of float.
FAMILY(max_pool_grad, Pool pool, address grad, address indices, address out, address status);
// `mean` of float.
FAMILY(avg_pool, Pool pool, address x, address out);
// `gather` of float.
FAMILY(avg_pool_grad, Pool pool, address grad, address out);

// Indices of a position.
struct Pixel {
    int64_t n, c, y, x;

    __device__ int64_t in(const int64_t (&strides)[4]) const {
        return n * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
    }
};

__device__ inline Pixel pixel(const Pool& p, uint64_t position) {
    bool wide = p.flags & WIDE;
    int64_t index[3];
#pragma unroll
    for (int d = 0; d < 3; ++d) {
        uint64_t rest = divide(position, p.dims[d], wide);
        index[d] = (int64_t)(position - rest * p.dims[d].extent);
        position = rest;
    }
    // Numbered in memory order, so that neighboring threads access neighboring elements.
    if (p.flags & POOL_CHANNELS_LAST) return Pixel{(int64_t)position, index[0], index[2], index[1]};
    return Pixel{(int64_t)position, index[2], index[1], index[0]};
}

// A window along one axis: its taps inside the input, its size including padding, and the number of its first tap inside.
struct Window {
    int64_t start, end, step, size, first;

    __device__ bool empty() const { return start >= end; }
};

__device__ inline Window window(const Pool& p, int d, int64_t o) {
    const PoolAxis& axis = p.axes[d];
    bool wide = p.flags & POOL_WIDE_WINDOWS;
    int64_t input = (int64_t)axis.input.extent;
    if (axis.kernel == 0) {
        uint64_t first = (uint64_t)o * axis.input.extent;
        int64_t start = (int64_t)divide(first, axis.output, wide);
        int64_t end = (int64_t)divide(first + axis.input.extent + axis.output.extent - 1, axis.output, wide);
        return Window{start, end, 1, end - start, 0};
    }
    int64_t step = (int64_t)axis.dilation.extent, start = o * (int64_t)axis.stride.extent - axis.padding;
    int64_t end = start + (axis.kernel - 1) * step + 1, last = input + axis.padding;
    // Only used for averages, whose taps are adjacent.
    int64_t size = (end < last ? end : last) - start;
    int64_t first = start < 0 ? (int64_t)divide((uint64_t)(step - 1 - start), axis.dilation, wide) : 0;
    return Window{start + first * step, end < input ? end : input, step, size, first};
}

// The windows that may have a tap at `i`, `first..end`. (With dilation some have none.)
struct Windows {
    int64_t first, end;
};

__device__ inline Windows windows_at(const Pool& p, int d, int64_t i) {
    const PoolAxis& axis = p.axes[d];
    bool wide = p.flags & POOL_WIDE_WINDOWS;
    int64_t output = (int64_t)axis.output.extent;
    if (axis.kernel == 0) {
        uint64_t first = (uint64_t)i * axis.output.extent;
        return Windows{(int64_t)divide(first, axis.input, wide),
                       (int64_t)divide(first + axis.output.extent + axis.input.extent - 1, axis.input, wide)};
    }
    int64_t place = i + axis.padding, before = place - (axis.kernel - 1) * (int64_t)axis.dilation.extent;
    int64_t stride = (int64_t)axis.stride.extent;
    int64_t first = before > 0 ? (int64_t)divide((uint64_t)(before + stride - 1), axis.stride, wide) : 0;
    int64_t end = (int64_t)divide((uint64_t)place, axis.stride, wide) + 1;
    return Windows{first, end < output ? end : output};
}

template <typename T>
__device__ inline void max_pool(const Pool& p, const T* x, T* out, void* indices) {
    typedef Compute<T> R;
    for (uint64_t i = thread_index(); i < p.numel; i += thread_count()) {
        Pixel at = pixel(p, i);
        Window rows = window(p, 0, at.y), columns = window(p, 1, at.x);
        const T* plane = x + at.n * p.input[0] + at.c * p.input[1];
        R best = -(R)INFINITY;
        int64_t place = -1, width = (int64_t)p.axes[1].input.extent, tap = -1;
        int64_t number = rows.first * p.axes[1].kernel + columns.first;
#pragma unroll 1
        for (int64_t row = rows.start; row < rows.end; row += rows.step, number += p.axes[1].kernel) {
            int64_t of_row = number;
            for (int64_t column = columns.start; column < columns.end; column += columns.step, ++of_row) {
                R value = load(plane[row * p.input[2] + column * p.input[3]]);
                if (place < 0 || value > best || value != value) {
                    best = value;
                    place = row * width + column;
                    tap = of_row;
                }
            }
        }
        out[at.in(p.output)] = store<T>(best);
        if (!indices) continue;
        if (p.flags & POOL_TAPS) {
            static_cast<uint8_t*>(indices)[at.in(p.indices)] = (uint8_t)tap;
        } else {
            static_cast<int64_t*>(indices)[at.in(p.indices)] = place;
        }
    }
}

// The number, along one axis, of the tap of window `o` at pixel `i`; `kernel` if there is none.
__device__ inline int64_t tap_at(const Pool& p, int d, int64_t o, int64_t i) {
    const PoolAxis& axis = p.axes[d];
    // Not before the window, since `windows_at` returned it.
    uint64_t into = (uint64_t)(i + axis.padding - o * (int64_t)axis.stride.extent);
    uint64_t tap = divide(into, axis.dilation, p.flags & POOL_WIDE_WINDOWS);
    return tap * axis.dilation.extent == into ? (int64_t)tap : axis.kernel;
}

template <typename T>
__device__ inline void max_pool_grad(const Pool& p, const T* grad, const void* indices, T* out, Status* status) {
    typedef Compute<T> R;
    int64_t width = (int64_t)p.axes[1].input.extent, size = (int64_t)p.axes[0].input.extent * width;
    for (uint64_t i = thread_index(); i < p.numel; i += thread_count()) {
        Pixel at = pixel(p, i);
        Windows rows = windows_at(p, 0, at.y), columns = windows_at(p, 1, at.x);
        int64_t own = at.y * width + at.x;
        const T* from = grad + at.n * p.output[0] + at.c * p.output[1];
        int64_t chosen = at.n * p.indices[0] + at.c * p.indices[1], kernel = p.axes[1].kernel;
        R sum = R(0);
#pragma unroll 1
        for (int64_t row = rows.first; row < rows.end; ++row) {
            int64_t down = p.flags & POOL_TAPS ? tap_at(p, 0, row, at.y) : 0;
#pragma unroll 1
            for (int64_t column = columns.first; column < columns.end; ++column) {
                int64_t from_there = chosen + row * p.indices[2] + column * p.indices[3];
                if (p.flags & POOL_TAPS) {
                    int64_t right = tap_at(p, 1, column, at.x), tap = static_cast<const uint8_t*>(indices)[from_there];
                    if (down < p.axes[0].kernel && right < kernel && tap == down * kernel + right)
                        sum += load(from[row * p.output[2] + column * p.output[3]]);
                    continue;
                }
                int64_t place = static_cast<const int64_t*>(indices)[from_there];
                if (place == own) {
                    sum += load(from[row * p.output[2] + column * p.output[3]]);
                } else if (place < -1 || place >= size) {
                    report(status, STATUS_INDEX, place, size);
                }
            }
        }
        out[at.in(p.input)] = store<T>(sum);
    }
}

// The divisor of a window's sum.
template <typename R>
__device__ inline R divisor(const Pool& p, const Window& rows, const Window& columns) {
    if (p.divisor == POOL_FIXED) return (R)p.fixed;
    if (p.divisor == POOL_WITH_PADDING) return (R)rows.size * (R)columns.size;
    return (R)(rows.end - rows.start) * (R)(columns.end - columns.start);
}

template <typename T>
__device__ inline void avg_pool(const Pool& p, const T* x, T* out) {
    typedef Compute<T> R;
    for (uint64_t i = thread_index(); i < p.numel; i += thread_count()) {
        Pixel at = pixel(p, i);
        Window rows = window(p, 0, at.y), columns = window(p, 1, at.x);
        const T* plane = x + at.n * p.input[0] + at.c * p.input[1];
        R sum = R(0);
#pragma unroll 1
        for (int64_t row = rows.start; row < rows.end; ++row) {
            R of_row = R(0);
            for (int64_t column = columns.start; column < columns.end; ++column) {
                of_row += load(plane[row * p.input[2] + column * p.input[3]]);
            }
            sum += of_row;
        }
        bool empty = rows.empty() || columns.empty();
        out[at.in(p.output)] = store<T>(empty ? R(0) : sum / divisor<R>(p, rows, columns));
    }
}

template <typename T>
__device__ inline void avg_pool_grad(const Pool& p, const T* grad, T* out) {
    typedef Compute<T> R;
    for (uint64_t i = thread_index(); i < p.numel; i += thread_count()) {
        Pixel at = pixel(p, i);
        Windows rows = windows_at(p, 0, at.y), columns = windows_at(p, 1, at.x);
        const T* from = grad + at.n * p.output[0] + at.c * p.output[1];
        R sum = R(0);
#pragma unroll 1
        for (int64_t row = rows.first; row < rows.end; ++row) {
            Window own_rows = window(p, 0, row);
#pragma unroll 1
            for (int64_t column = columns.first; column < columns.end; ++column) {
                Window own_columns = window(p, 1, column);
                sum += load(from[row * p.output[2] + column * p.output[3]]) / divisor<R>(p, own_rows, own_columns);
            }
        }
        out[at.in(p.input)] = store<T>(sum);
    }
}

#define POOL(name, T)                                                                                           \
    KERNEL max_pool_largest_##name(BY_VALUE Pool p, const T* x, T* out, void* indices) {                        \
        max_pool<T>(p, x, out, indices);                                                                        \
    }                                                                                                           \
    KERNEL_OF(4) max_pool_grad_gather_##name(BY_VALUE Pool p, const T* grad, const void* indices, T* out,             \
                                       Status* status) {                                                        \
        max_pool_grad<T>(p, grad, indices, out, status);                                                        \
    }                                                                                                           \
    KERNEL_OF(4) avg_pool_mean_##name(BY_VALUE Pool p, const T* x, T* out) { avg_pool<T>(p, x, out); }          \
    KERNEL avg_pool_grad_gather_##name(BY_VALUE Pool p, const T* grad, T* out) { avg_pool_grad<T>(p, grad, out); }
FOR_FLOAT(POOL)
