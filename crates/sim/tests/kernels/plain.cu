// Correct kernels: what the tests of the driver launch, and the twins of the faulty ones.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

struct Strides {
    uint64_t n;
    int64_t x, y;
};

extern "C" __global__ void t_fill_f32(float* out, float value, uint64_t n) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = value;
}

extern "C" __global__ void t_axpy_f32(const float* x, float* y, float a, const __grid_constant__ Strides s) {
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < s.n; i += uint64_t(gridDim.x) * blockDim.x)
        y[i * s.y] = a * x[i * s.x] + y[i * s.y];
}

extern "C" __global__ void t_vector_f32(const float4* x, float4* out, uint64_t n) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) {
        float4 v = x[i];
        v.x += 1.0f;
        out[i] = v;
    }
}

extern "C" __global__ void t_half(const __half* x, const __nv_bfloat16* y, float* out, uint64_t n) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __half2float(x[i]) + __bfloat162float(y[i]);
}

template <class T>
__device__ T block_sum(T value) {
    __shared__ T partial[32];
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    value = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : T(0);
    if (threadIdx.x < 32)
        for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    __syncthreads();
    return value;
}

#define SUM(name, T)                                                                        \
    extern "C" __global__ void __launch_bounds__(256) t_sum_##name(const T* x, T* out, uint64_t n) { \
        T value = 0;                                                                        \
        for (uint64_t i = threadIdx.x; i < n; i += blockDim.x) value += x[i];               \
        value = block_sum(value);                                                           \
        if (threadIdx.x == 0) *out = value;                                                 \
    }
SUM(f32, float)
SUM(i64, long long)

// Reverses each block's elements through dynamic shared memory.
extern "C" __global__ void t_reverse_f32(const float* x, float* out) {
    extern __shared__ float tile[];
    const unsigned at = blockIdx.x * blockDim.x;
    tile[threadIdx.x] = x[at + threadIdx.x];
    __syncthreads();
    out[at + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void t_votes(unsigned* out) {
    const unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x & 1);
    const int sum = __syncthreads_count(threadIdx.x < 5);
    if (threadIdx.x < 8) {
        const unsigned low = __shfl_xor_sync(0xffu, threadIdx.x, 1, 8);
        out[threadIdx.x] = low;
    }
    if (threadIdx.x == 8) out[8] = odd, out[9] = unsigned(sum);
}

// A histogram, then the last block to finish writes the total: atomics order what it reads.
extern "C" __global__ void t_histogram(const uint32_t* x, uint32_t* bins, uint32_t* ticket, uint32_t n) {
    __shared__ uint32_t local[16];
    if (threadIdx.x < 16) local[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&local[x[i] % 16], 1u);
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
    __threadfence();
    if (threadIdx.x == 0) atomicAdd(ticket, 1u);
}

// What f_no_loop, f_last_unwritten and f_overwrites should be: a loop over everything, or a sum.
extern "C" __global__ void t_double(const float* x, float* out, uint64_t n) {
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += uint64_t(gridDim.x) * blockDim.x)
        out[i] = 2.0f * x[i];
}

extern "C" __global__ void t_accumulate(const float* grad, float* sum, uint64_t n) {
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += uint64_t(gridDim.x) * blockDim.x)
        sum[i] += grad[i];
}

extern "C" __global__ void t_count(unsigned* sum) {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    atomicAdd(&count, 1u);
    __syncthreads();
    if (threadIdx.x == 0) *sum = count;
}

extern "C" __global__ void t_wide_index(float* out, uint32_t row, uint32_t stride) {
    out[uint64_t(row) * stride] = 1.0f;
}
