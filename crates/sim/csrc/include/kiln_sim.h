// The header with which `kernels/*.cu` compile with a C++ compiler. `build.rs` runs the preprocessor with it, turns
// `__shared__` declarations into slots of the block's memory, and registers every `extern "C" __global__` function.
#pragma once
#include "../device.h"
#include "../engine.h"

#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __CUDA_ARCH__ 750
#define warpSize 32

#define threadIdx (::sim::thread_index())
#define blockIdx (::sim::block_index())
#define blockDim (::sim::block_extent())
#define gridDim (::sim::grid_extent())

#include "kiln_sim_vectors.h"
#include "kiln_sim_math.h"
#include "kiln_sim_sync.h"

namespace sim {

// The entry of a kernel in the table of its file, derived from its type.
template <auto F>
struct Entry;

template <class... P, void (*F)(P...)>
struct Entry<F> {
    template <size_t... I>
    static void unpack(void **arguments, std::index_sequence<I...>) {
        F(*static_cast<P *>(arguments[I])...);
    }
    static void call(void **arguments) { unpack(arguments, std::index_sequence_for<P...>{}); }

    template <class T>
    static constexpr uint8_t kind() {
        if constexpr (!std::is_pointer_v<T>) return 0;
        else return std::is_const_v<std::remove_pointer_t<T>> ? 1 : 2;
    }
    // One extra element, because arrays cannot be empty.
    static constexpr uint32_t sizes[] = {sizeof(P)..., 0};
    static constexpr uint8_t kinds[] = {kind<P>()..., 0};
};

template <auto F>
constexpr SimKernel entry(const char *name) {
    using E = Entry<F>;
    return {name, E::call, E::sizes, E::kinds, uint32_t(sizeof(E::sizes) / sizeof(uint32_t) - 1), nullptr};
}

// The kernels of this file, which register themselves during static initialization.
static const SimKernel *rows = nullptr;

struct Register {
    SimKernel kernel;
    explicit Register(SimKernel row) : kernel(row) {
        kernel.next = rows;
        rows = &kernel;
    }
};

}  // namespace sim
