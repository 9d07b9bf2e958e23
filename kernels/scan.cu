// Scans along lines: cumsum, cummax, cummin. A block takes a line, 256 elements at a time (Hillis & Steele, 1986), and
// carries over the result of the elements before them. Sums are formed in f64 for floats, so that the error does not
// grow with the position, and in wrapping 64 bits for the other dtypes.
#include "convert.cuh"

// `sum` of all. One block per line.
FAMILY(cumsum, Lines<2> lines, address x, address out);
// `max` and `min` of all. One block per line.
FAMILY(cummax, Lines<3> lines, address x, address values, address indices);
FAMILY(cummin, Lines<3> lines, address x, address values, address indices);

template <typename C>
struct Total {
    typedef uint64_t Type;
    static __device__ uint64_t of(C x) { return (uint64_t)(int64_t)x; }
};
template <>
struct Total<f32> {
    typedef f64 Type;
    static __device__ f64 of(f32 x) { return (f64)x; }
};
template <>
struct Total<f64> {
    typedef f64 Type;
    static __device__ f64 of(f64 x) { return x; }
};

__device__ inline f64 result_of(f64 total) { return total; }
__device__ inline i64 result_of(uint64_t total) { return (i64)total; }

template <typename T, typename O>
__device__ inline void cumsum(const Lines<2>& p, const T* x, O* out) {
    typedef Total<Compute<T>> From;
    typedef typename From::Type A;
    __shared__ A shared[256];
    for (uint64_t line = blockIdx.x; line < p.lines.numel; line += gridDim.x) {
        Offsets<2> at = locate(p.lines, line);
        A carry = A(0);
        for (uint64_t start = 0; start < p.n; start += 256) {
            uint64_t i = start + threadIdx.x;
            shared[threadIdx.x] = i < p.n ? From::of(load(x[at.at[0] + (int64_t)i * p.strides[0]])) : A(0);
            __syncthreads();
            for (uint32_t reach = 1; reach < 256; reach *= 2) {
                A before = threadIdx.x >= reach ? shared[threadIdx.x - reach] : A(0);
                __syncthreads();
                shared[threadIdx.x] += before;
                __syncthreads();
            }
            A total = carry + shared[threadIdx.x];
            if (i < p.n) out[at.at[1] + (int64_t)i * p.strides[1]] = store<O>(convert<O>(result_of(total)));
            carry += shared[255];
            __syncthreads();
        }
    }
}

#define CUMSUM(name, T, O) \
    KERNEL cumsum_sum_##name(BY_VALUE Lines<2> p, const T* x, O* out) { cumsum(p, x, out); }
#define FLOATS(name, T) CUMSUM(name, T, T)
#define WHOLE(name, T) CUMSUM(name, T, i64)
FOR_FLOAT(FLOATS)
FOR_INT(WHOLE)
WHOLE(bool, truth)

// The best element so far and its position; -1 if there is none. Of equal elements it is the later one; NaN beats all
// numbers.
template <typename C, bool Largest>
struct Best {
    C value;
    int64_t index;

    // Merges two partial results; `later` covers the elements after `earlier`.
    __device__ static Best of(Best earlier, Best later) {
        if (later.index < 0) return earlier;
        if (earlier.index < 0 || later.value != later.value) return later;
        bool as_good = Largest ? later.value >= earlier.value : later.value <= earlier.value;
        return as_good ? later : earlier;
    }
};

template <bool Largest, typename T>
__device__ inline void running_extremes(const Lines<3>& p, const T* x, T* values, int64_t* indices) {
    typedef Compute<T> C;
    typedef Best<C, Largest> B;
    __shared__ C shared_values[256];
    __shared__ int64_t shared_indices[256];
    for (uint64_t line = blockIdx.x; line < p.lines.numel; line += gridDim.x) {
        Offsets<3> at = locate(p.lines, line);
        B carry{C(0), -1};
        for (uint64_t start = 0; start < p.n; start += 256) {
            uint64_t i = start + threadIdx.x;
            B own{C(0), -1};
            if (i < p.n) own = B{load(x[at.at[0] + (int64_t)i * p.strides[0]]), (int64_t)i};
            shared_values[threadIdx.x] = own.value;
            shared_indices[threadIdx.x] = own.index;
            __syncthreads();
            for (uint32_t reach = 1; reach < 256; reach *= 2) {
                B before{C(0), -1};
                if (threadIdx.x >= reach) {
                    before = B{shared_values[threadIdx.x - reach], shared_indices[threadIdx.x - reach]};
                }
                __syncthreads();
                own = B::of(before, own);
                shared_values[threadIdx.x] = own.value;
                shared_indices[threadIdx.x] = own.index;
                __syncthreads();
            }
            B best = B::of(carry, own);
            if (i < p.n) {
                values[at.at[1] + (int64_t)i * p.strides[1]] = store<T>(best.value);
                indices[at.at[2] + (int64_t)i * p.strides[2]] = best.index;
            }
            carry = B::of(carry, B{shared_values[255], shared_indices[255]});
            __syncthreads();
        }
    }
}

#define CUMMAX(name, T)                                                                                \
    KERNEL cummax_max_##name(BY_VALUE Lines<3> p, const T* x, T* values, int64_t* indices) {           \
        running_extremes<true>(p, x, values, indices);                                                 \
    }
#define CUMMIN(name, T)                                                                                \
    KERNEL cummin_min_##name(BY_VALUE Lines<3> p, const T* x, T* values, int64_t* indices) {           \
        running_extremes<false>(p, x, values, indices);                                                \
    }
FOR_ALL(CUMMAX)
FOR_ALL(CUMMIN)
