// The engine's functions that the device headers (include/) call: indices, barriers, warp operations, shared memory.
#pragma once
#include <cstddef>
#include <cstdint>

struct alignas(4) uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace sim {

struct Site {
    const char *file;
    int line;
};

enum : uint32_t { WARP_SHUFFLE, WARP_VOTE, WARP_SYNC, BARRIER_SYNC, BARRIER_COUNT, BARRIER_AND, BARRIER_OR };

// Constant for one thread of a launch, so the compiler may call them once.
uint3 thread_index() __attribute__((const));
uint3 block_index() __attribute__((const));
dim3 block_extent() __attribute__((const));
dim3 grid_extent() __attribute__((const));
uint32_t lane_index() __attribute__((const));

uint64_t barrier(uint32_t operation, uint64_t value, Site site);
uint64_t warp(uint32_t operation, uint32_t mask, uint64_t value, int source, Site site);
uint32_t active_mask();
[[noreturn]] void trap(const char *what, Site site);

// Memory of a `__shared__` variable of the running block; `key` is a distinct address for each declaration and
// instantiation, because each has its own storage.
void *shared_slot(const void *key, size_t bytes, size_t alignment, const char *name);
void *dynamic_shared(size_t alignment);
uint32_t dynamic_shared_bytes();
uint32_t shared_limit();

// An atomic operation on `bytes` bytes: checked like any access, but never a race with other atomic operations.
void atomic_access(const volatile void *address, size_t bytes);

}  // namespace sim
