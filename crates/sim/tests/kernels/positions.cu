// The index arithmetic of the framework's kernels (kernels/common.cuh), at positions that no test has the time to walk to.
#include "../../../../kernels/common.cuh"

extern "C" __global__ void t_locate(const uint64_t* positions, int64_t* out, uint64_t n, BY_VALUE Grid<3> grid) {
    for (uint64_t i = thread_index(); i < n; i += thread_count()) {
        Offsets<3> offsets = locate(grid, positions[i]);
        for (int k = 0; k < 3; ++k) out[3 * i + k] = offsets.at[k];
    }
}
