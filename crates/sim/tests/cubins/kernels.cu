// Kernels with the names and parameters of ../kernels/plain.cu, for cubins of which the driver's loader reads the headers.
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
    for (uint64_t i = threadIdx.x; i < s.n; i += blockDim.x) y[i * s.y] += a * x[i * s.x];
}

extern "C" __global__ void __launch_bounds__(64) t_reverse_f32(const float* x, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
