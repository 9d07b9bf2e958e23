// gather (and index_select), scatter and scatter_add (and index_add). An index out of range is reported, and its
// element is skipped.
#include "common.cuh"

// `take` of bits8 16 32 64. Also `index_select`, whose index has stride 0 in the other dimensions.
FAMILY(gather, Gather shape, address index, address out, address x, address status);
// `set` of bits8 16 32 64, `add` of float and int, `mul`, `min` and `max` of f32, f64 and int. Also `index_add`. Where x is
// null, it is `number`: bits for `set`, else a Number.
FAMILY(scatter, Scatter shape, address index, address x, address out, u64 number, address status);
// `add` of f16 and bf16 with sums in f32, where several terms may go to one element: lines `first..first + count`.
// `sums` are `Scatter::size * count` f32.
FAMILY(scatter_half, Scatter shape, u64 first, u64 count, address index, address x, address out, address sums,
       Number number, address status);

#define GATHER(name, T)                                                                                         \
    KERNEL gather_take_##name(BY_VALUE Gather p, const int64_t* index, T* out, const T* x, Status* status) {    \
        for (uint64_t i = thread_index(); i < p.grid.numel; i += thread_count()) {                              \
            Offsets<3> at = locate(p.grid, i);                                                                  \
            int64_t from = index[at.at[0]];                                                                     \
            if ((uint64_t)from >= p.size) {                                                                     \
                report(status, STATUS_INDEX, from, (int64_t)p.size);                                            \
                continue;                                                                                       \
            }                                                                                                   \
            out[at.at[1]] = x[at.at[2] + from * p.stride];                                                      \
        }                                                                                                       \
    }
FOR_BITS(GATHER)

// Positions that write to the same element differ only in their index along the dimension, and one thread takes them in
// that order, so the result does not depend on timing. When several threads share a line, each reads all of its indices
// and takes those of the elements that it owns.
template <typename F>
__device__ inline void scatter(const Scatter& p, const int64_t* index, Status* status, F write) {
    uint64_t tasks = p.lines.numel * p.parts;
    for (uint64_t task = thread_index(); task < tasks; task += thread_count()) {
        // Neighboring threads take neighboring lines.
        uint64_t part = task / p.lines.numel;
        Offsets<3> at = locate(p.lines, task - part * p.lines.numel);
        // Not unrolled: the branches of several iterations need more predicate registers than there are.
#pragma unroll 1
        for (uint64_t i = 0; i < p.n; ++i) {
            int64_t to = index[at.at[0] + (int64_t)i * p.strides[0]];
            if ((uint64_t)to >= p.size) {
                if (part == 0) report(status, STATUS_SCATTER, to, (int64_t)p.size);
            } else if (((uint64_t)to & (p.parts - 1)) == part) {
                write(at.at[1] + (int64_t)i * p.strides[1], at.at[2] + to * p.strides[2]);
            }
        }
    }
}

#define SCATTER_SET(name, T)                                                                                    \
    KERNEL scatter_set_##name(BY_VALUE Scatter p, const int64_t* index, const T* x, T* out, uint64_t number,    \
                              Status* status) {                                                                 \
        scatter(p, index, status, [=](int64_t from, int64_t to) {                                               \
            out[to] = x ? x[from] : T{(decltype(T::bits))number};                                               \
        });                                                                                                     \
    }
FOR_BITS(SCATTER_SET)

// Integers wrap.
template <typename I>
__device__ inline I plus(I a, I b) {
    return (I)((uint64_t)a + (uint64_t)b);
}
template <>
__device__ inline f32 plus(f32 a, f32 b) {
    return a + b;
}
template <>
__device__ inline f64 plus(f64 a, f64 b) {
    return a + b;
}

template <typename I>
__device__ inline I times(I a, I b) {
    return (I)((uint64_t)a * (uint64_t)b);
}
template <>
__device__ inline f32 times(f32 a, f32 b) {
    return a * b;
}
template <>
__device__ inline f64 times(f64 a, f64 b) {
    return a * b;
}

// NaN if either is.
template <typename T>
__device__ inline T smaller(T a, T b) {
    return a < b || a != a ? a : b;
}
template <typename T>
__device__ inline T larger(T a, T b) {
    return a > b || a != a ? a : b;
}

#define SCATTER_COMBINED(name, T, op, combine)                                                                  \
    KERNEL scatter_##op##_##name(BY_VALUE Scatter p, const int64_t* index, const T* x, T* out, uint64_t number, \
                                 Status* status) {                                                              \
        Compute<T> constant = Number<Compute<T>>::value(number);                                                \
        scatter(p, index, status, [=](int64_t from, int64_t to) {                                               \
            out[to] = store<T>(combine<Compute<T>>(load(out[to]), x ? load(x[from]) : constant));               \
        });                                                                                                     \
    }
FOR_FLOAT(SCATTER_COMBINED, add, plus)
FOR_INT(SCATTER_COMBINED, add, plus)
FOR_DIRECT(SCATTER_COMBINED, mul, times)
FOR_INT(SCATTER_COMBINED, mul, times)
FOR_DIRECT(SCATTER_COMBINED, min, smaller)
FOR_INT(SCATTER_COMBINED, min, smaller)
FOR_DIRECT(SCATTER_COMBINED, max, larger)
FOR_INT(SCATTER_COMBINED, max, larger)

// Adding in half precision loses terms (2048 + 1 is 2048), so sums are accumulated in f32 and rounded once. `sums` has
// a slot for each element along the dimension, for `count` lines from `first` on; the slots of neighboring lines are
// adjacent. A thread loads the elements that it will add to, adds, and stores them.
template <typename T>
__device__ inline void scatter_half(const Scatter& p, uint64_t first, uint64_t count, const int64_t* index, const T* x,
                                    T* out, f32* sums, f32 constant, Status* status) {
    uint64_t tasks = count * p.parts;
    for (uint64_t task = thread_index(); task < tasks; task += thread_count()) {
        uint64_t part = task / count, line = task - part * count;
        Offsets<3> at = locate(p.lines, first + line);
#pragma unroll 1
        for (int pass = 0; pass < 3; ++pass) {
#pragma unroll 1
            for (uint64_t i = 0; i < p.n; ++i) {
                int64_t to = index[at.at[0] + (int64_t)i * p.strides[0]];
                if ((uint64_t)to >= p.size) {
                    if (part == 0 && pass == 0) report(status, STATUS_SCATTER, to, (int64_t)p.size);
                } else if (((uint64_t)to & (p.parts - 1)) == part) {
                    T* element = out + at.at[2] + to * p.strides[2];
                    f32* sum = sums + (uint64_t)to * count + line;
                    if (pass == 0) *sum = load(*element);
                    if (pass == 1) *sum += x ? load(x[at.at[1] + (int64_t)i * p.strides[1]]) : constant;
                    if (pass == 2) *element = store<T>(*sum);
                }
            }
        }
    }
}

#define SCATTER_HALF(name, T)                                                                                   \
    KERNEL_OF(4) scatter_half_add_##name(BY_VALUE Scatter p, uint64_t first, uint64_t count,                    \
                                         const int64_t* index, const T* x, T* out, f32* sums, uint64_t number,  \
                                         Status* status) {                                                      \
        scatter_half(p, first, count, index, x, out, sums, Number<f32>::value(number), status);                 \
    }
FOR_HALF(SCATTER_HALF)
