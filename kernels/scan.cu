// Running sums along lines, in f64 for floats (so that the error does not grow with the position), in wrapping 64 bits
// for the others. A block takes a line, 256 elements at a time.
#include "convert.cuh"

FAMILY(cumsum);

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
