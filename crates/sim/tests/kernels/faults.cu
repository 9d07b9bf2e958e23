// Kernels with one planted fault each. Their correct twins are in plain.cu, or are the same code with `Correct`.
#include <stdint.h>

// Writes one element too many.
extern "C" __global__ void f_off_by_one(float* out, uint64_t n) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = 1.0f;
}

// Reads what the neighbor wrote, with no barrier between.
extern "C" __global__ void f_no_barrier(const float* x, float* out) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// The tile is written anew while slow threads may still read it.
extern "C" __global__ void f_no_second_barrier(const float* x, float* out) {
    __shared__ float tile[64];
    float sum = 0;
    for (int round = 0; round < 2; ++round) {
        tile[threadIdx.x] = x[round * 64 + threadIdx.x];
        __syncthreads();
        sum += tile[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}

// Half of the threads miss the barrier.
extern "C" __global__ void f_divergent_barrier(float* out) {
    if (threadIdx.x < blockDim.x / 2) __syncthreads();
    out[threadIdx.x] = 0;
}

// A full mask where only 16 lanes arrive.
extern "C" __global__ void f_wrong_mask(unsigned* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1);
}

// The upper lanes call with a mask that does not name them.
extern "C" __global__ void f_mask_without_self(unsigned* out) {
    out[threadIdx.x] = __shfl_sync(0xffffu, threadIdx.x, 0);
}

extern "C" __global__ void f_shared_overrun(float* out) {
    __shared__ float tile[32];
    float* next = tile + 1;
    next[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void f_shared_unset(float* out) {
    __shared__ float tile[32];
    if (threadIdx.x < 31) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void f_unaligned_vector(const float* x, float4* out) {
    out[threadIdx.x] = *reinterpret_cast<const float4*>(x + 1 + 4 * threadIdx.x);
}

extern "C" __global__ void f_null(const float* x, float* out) {
    out[0] = x[0];
}

extern "C" __global__ void f_wild(float* out) {
    float* p = reinterpret_cast<float*>(0x123456789abcull);
    out[0] = *p;
}

extern "C" __global__ void f_trap(int* out) {
    if (*out != 42) __trap();
}

// One block too few is launched, and nobody loops: the rest of the output is never written.
extern "C" __global__ void f_no_loop(const float* x, float* out, uint64_t n) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = 2.0f * x[i];
}

// Leaves out the last element.
extern "C" __global__ void f_last_unwritten(const float* x, float* out, uint64_t n) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i + 1 < n) out[i] = 2.0f * x[i];
}

// Puts a gradient in the place of the one that is there.
extern "C" __global__ void f_overwrites(const float* grad, float* sum, uint64_t n) {
    const uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) sum[i] = grad[i];
}

// Several threads add to one place, each to what it read before.
extern "C" __global__ void f_lost_updates(unsigned* sum) {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    count += 1;
    __syncthreads();
    if (threadIdx.x == 0) *sum = count;
}

// Rows and columns are exchanged in one of two places.
extern "C" __global__ void f_wrong_strides(const float* x, float* out, uint32_t rows, uint32_t cols) {
    const uint32_t row = threadIdx.x, col = threadIdx.y;
    if (row < rows && col < cols) out[row * cols + col] = x[col * rows + row];
}

// Shuffles from lanes that the mask does not have.
extern "C" __global__ void f_shuffle_outside(unsigned* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, threadIdx.x, 20);
}

// A 32-bit product of numbers that need 64.
extern "C" __global__ void f_narrow_index(float* out, uint32_t row, uint32_t stride) {
    out[row * stride] = 1.0f;
}

// Every block writes the same place, and one of them reads it.
extern "C" __global__ void f_global_race(float* out) {
    if (threadIdx.x == 0) out[0] = float(blockIdx.x);
    if (blockIdx.x == 0) out[1 + threadIdx.x] = out[0];
}

// Behind a barrier, threads of one block may read what others wrote; blocks share nothing but an atomic counter.
extern "C" __global__ void t_no_global_race(float* out, unsigned* count) {
    const unsigned base = blockIdx.x * blockDim.x;
    out[base + threadIdx.x] = float(threadIdx.x);
    __syncthreads();
    const float next = out[base + (threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    out[base + threadIdx.x] = next;
    atomicAdd(count, 1u);
}

// What C++ leaves open.
extern "C" __global__ void f_undefined(const int* x, int* out, int which) {
    const int table[4] = {1, 2, 3, 4};
    if (which == 0) out[0] = table[x[0]];
    if (which == 1) out[0] = 1 << x[0];
    if (which == 2) out[0] = x[0] / x[1];
    if (which == 3) out[0] = int(1e20f * float(x[0]));
}

// Reads past an array of its own, through a pointer that says nothing of the length.
extern "C" __global__ void f_local_overrun(const int* x, int* out) {
    int table[4];
    for (int i = 0; i < 4; ++i) table[i] = i;
    const int* at = table;
    out[0] = at[x[0]];
}

// A sum that wraps on the device, and is undefined in C++.
extern "C" __global__ void f_signed_overflow(const int* x, int* out) {
    out[0] = x[0] + x[1];
}

// Lanes of a warp exchange values through memory, with nothing that makes them wait for each other.
extern "C" __global__ void f_no_syncwarp(const float* x, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// A shuffle makes lanes wait, but does not order what they do to memory.
extern "C" __global__ void f_shuffle_for_syncwarp(const float* x, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    const float other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
    out[threadIdx.x] = tile[threadIdx.x ^ 1] + other;
}

extern "C" __global__ void t_syncwarp(const float* x, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x ^ 1];
}
