// Products of integer matrices, with wrapping arithmetic. Tiles of 16 x 16 pass through shared memory.
#include "common.cuh"

// `tiled` of int. Blocks of 16 x 16, grid (n / 16, m / 16, batch) rounded up.
FAMILY(matmul, Matmul product, address a, address b, address out);

constexpr int TILE = 16;

template <typename T>
__device__ inline void matmul(const Matmul& p, const T* a, const T* b, T* out) {
    __shared__ T left[TILE][TILE];
    __shared__ T right[TILE][TILE + 1];
    uint64_t column = (uint64_t)blockIdx.x * TILE + threadIdx.x;
    // A grid has at most 65,535 blocks in y and z: these loops cover the rows and matrices beyond.
    for (uint64_t batch = blockIdx.z; batch < p.batch.numel; batch += gridDim.z) {
        Offsets<3> at = locate(p.batch, batch);
        for (uint64_t top = (uint64_t)blockIdx.y * TILE; top < p.m; top += (uint64_t)gridDim.y * TILE) {
            uint64_t row = top + threadIdx.y, sum = 0;
            for (uint64_t start = 0; start < p.k; start += TILE) {
                uint64_t ka = start + threadIdx.x, kb = start + threadIdx.y;
                bool in_a = row < p.m && ka < p.k, in_b = column < p.n && kb < p.k;
                int64_t from_a = at.at[0] + (int64_t)row * p.a[0] + (int64_t)ka * p.a[1];
                int64_t from_b = at.at[1] + (int64_t)kb * p.b[0] + (int64_t)column * p.b[1];
                left[threadIdx.y][threadIdx.x] = in_a ? a[from_a] : T(0);
                right[threadIdx.y][threadIdx.x] = in_b ? b[from_b] : T(0);
                __syncthreads();
                for (int k = 0; k < TILE; ++k) sum += (uint64_t)left[threadIdx.y][k] * (uint64_t)right[k][threadIdx.x];
                __syncthreads();
            }
            if (row < p.m && column < p.n) {
                out[at.at[2] + (int64_t)row * p.out[0] + (int64_t)column * p.out[1]] = (T)sum;
            }
        }
    }
}

#define MATMUL(name, T) \
    KERNEL matmul_tiled_##name(BY_VALUE Matmul p, const T* a, const T* b, T* out) { matmul(p, a, b, out); }
FOR_INT(MATMUL)
