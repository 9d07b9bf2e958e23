// Which blocks ThreadSanitizer watches, which takes it many times as long as running them: its clocks learn at each barrier
// of a block what each of its threads knows of each other one. So it watches what may differ from what it has seen. Our own
// hooks watch the rest, too, in the simulator's own library.
#pragma once
#include "device.h"
#include "engine.h"

#include <functional>
#include <string>
#include <unordered_set>

namespace sim::sanitizer {

// Whether no earlier launch was of the same kernel, shape and arguments: one that was has made the same accesses, but for
// those that depend on the contents of memory. Of an address only the alignment counts, by which kernels choose the width
// of an access.
inline bool is_new(const SimLaunch &launch) {
    constexpr uint64_t WIDEST = 16;
    const SimKernel &kernel = *launch.kernel;
    std::string key = kernel.name;
    const auto put = [&key](const void *value, size_t bytes) { key.append(static_cast<const char *>(value), bytes); };
    put(launch.grid, sizeof launch.grid);
    put(launch.block, sizeof launch.block);
    put(&launch.dynamic_shared, sizeof launch.dynamic_shared);
    for (uint32_t i = 0; i < kernel.count; ++i) {
        const char *argument = static_cast<const char *>(launch.arguments[i]);
        uint32_t at = 0;
        for (uint64_t word; at + sizeof word <= kernel.sizes[i]; at += sizeof word) {
            __builtin_memcpy(&word, argument + at, sizeof word);
            if (arena.has(word)) word %= WIDEST;
            put(&word, sizeof word);
        }
        put(argument + at, kernel.sizes[i] - at);
    }
    static std::unordered_set<size_t> seen;
    return seen.insert(std::hash<std::string>{}(key)).second;
}

// Whether a block is among the first two or the last along each axis of its grid: those between run as the second one.
inline bool is_at_edge(const SimLaunch &launch, const dim3 &block) {
    const uint32_t at[] = {block.x, block.y, block.z};
    for (int axis = 0; axis < 3; ++axis)
        if (at[axis] > 1 && at[axis] + 1 < launch.grid[axis]) return false;
    return true;
}

}  // namespace sim::sanitizer
