// Informs GCC's and Clang's sanitizers, when this code is built a second time to run with their libraries (by
// `src/sanitize.rs`): which stack is in use, which bytes are inaccessible, and what a barrier orders. In the
// simulator's own library, whose hooks see every access themselves (`memory.cpp`), these functions do nothing.
#pragma once
#include "watched.h"

#include <cstddef>
#include <cstdint>

#if defined(KILN_SIM_ADDRESS)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(KILN_SIM_THREAD)
#include <sanitizer/tsan_interface.h>
// Not all compilers provide the header that declares these two.
extern "C" uint32_t __tsan_atomic32_fetch_add(volatile uint32_t *at, uint32_t value, int order);
extern "C" uint64_t __tsan_atomic64_fetch_add(volatile uint64_t *at, uint64_t value, int order);
// Accesses between the first and the second are ignored: they are not the program's.
extern "C" void AnnotateIgnoreReadsBegin(const char *file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char *file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char *file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char *file, int line);
#endif

namespace sim::sanitizer {

#if defined(KILN_SIM_ADDRESS) || defined(KILN_SIM_THREAD)
constexpr bool PRESENT = true;
#else
constexpr bool PRESENT = false;
#endif

// A thread of a block is a fiber of ThreadSanitizer, too, so that their stacks are kept apart.
#if defined(KILN_SIM_THREAD)
constexpr bool OWN_STACKS = true;
#else
constexpr bool OWN_STACKS = false;
#endif

#if defined(KILN_SIM_ADDRESS)

inline void forbid(const void *at, size_t bytes) { __asan_poison_memory_region(at, bytes); }
inline void allow(const void *at, size_t bytes) { __asan_unpoison_memory_region(at, bytes); }

// The stack of the host thread that runs the launch.
inline const void *host_stack;
inline size_t host_stack_bytes;

inline void before_fiber(uint32_t, const void *stack, size_t bytes) { __sanitizer_start_switch_fiber(nullptr, stack, bytes); }
inline void after_fiber() { __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr); }
inline void in_fiber() { __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes); }
inline void leave_fiber() { __sanitizer_start_switch_fiber(nullptr, host_stack, host_stack_bytes); }

#else

inline void forbid(const void *, size_t) {}
inline void allow(const void *, size_t) {}
inline void in_fiber() {}
inline void after_fiber() {}

#if !defined(KILN_SIM_THREAD)
inline void before_fiber(uint32_t, const void *, size_t) {}
inline void leave_fiber() {}
#endif

#endif

#if defined(KILN_SIM_THREAD)

constexpr uint32_t THREADS = 1024;
constexpr unsigned NO_ORDER = 1;
inline void *fibers[THREADS];
inline void *host;

inline void ignore() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
inline void heed() { AnnotateIgnoreWritesEnd("", 0), AnnotateIgnoreReadsEnd("", 0); }

// Addresses for synchronization: one for the block, and one for each group of lanes, at the index of its first lane.
inline uint64_t places[THREADS + 1];
constexpr uint32_t BLOCK = THREADS;
// How often all threads of a block have been ordered, and the last time that each fiber was among them.
inline uint64_t orders;
inline uint64_t ordered[THREADS];

// Whether the running block is watched. Another one is a part of the host's thread, whose accesses are ignored meanwhile.
inline bool watched = true;

// Returns whether the launch has blocks to watch.
inline bool begin_launch(const SimLaunch &launch, uint32_t threads) {
    if (!is_new(launch)) return false;
    host = __tsan_get_current_fiber();
    for (uint32_t i = 0; i < threads; ++i) {
        if (!fibers[i]) fibers[i] = __tsan_create_fiber(0);
        // Launches are sequential, and the previous one may have had fewer threads.
        if (ordered[i] == orders) continue;
        __tsan_switch_to_fiber(fibers[i], NO_ORDER);
        __tsan_acquire(&places[BLOCK]);
    }
    __tsan_switch_to_fiber(host, NO_ORDER);
    return true;
}
inline void begin_block(bool watch) {
    watched = watch;
    if (!watched) ignore();
}
inline void end_block() {
    if (!watched) heed();
    watched = true;
}
inline void before_fiber(uint32_t index, const void *, size_t) {
    if (watched) __tsan_switch_to_fiber(fibers[index], NO_ORDER);
}
inline void leave_fiber() {
    if (watched) __tsan_switch_to_fiber(host, NO_ORDER);
}

// Orders everything that the threads named by `has` did so far before everything that any of them does from now on.
template <class F>
inline void order(uint32_t place, uint32_t begin, uint32_t end, F has) {
    if (!watched) return;
    if (place == BLOCK) ++orders;
    for (uint32_t i = begin; i < end; ++i) {
        if (!has(i)) continue;
        __tsan_switch_to_fiber(fibers[i], NO_ORDER);
        __tsan_release(&places[place]);
    }
    for (uint32_t i = begin; i < end; ++i) {
        if (!has(i)) continue;
        __tsan_switch_to_fiber(fibers[i], NO_ORDER);
        __tsan_acquire(&places[place]);
        if (place == BLOCK) ordered[i] = orders;
    }
    __tsan_switch_to_fiber(host, NO_ORDER);
}
// An atomic operation, as far as it can race with non-atomic ones.
inline void atomic(uint64_t address, size_t bytes) {
    constexpr int RELAXED = 0;
    if (bytes == 4) __tsan_atomic32_fetch_add(reinterpret_cast<volatile uint32_t *>(address), 0, RELAXED);
    if (bytes == 8) __tsan_atomic64_fetch_add(reinterpret_cast<volatile uint64_t *>(address), 0, RELAXED);
}

// While one of these lives, memory accesses are the simulator's and not the thread's.
struct Own {
    Own() { ignore(); }
    ~Own() { heed(); }
};

#else

constexpr uint32_t BLOCK = 0;
inline bool begin_launch(const SimLaunch &, uint32_t) { return false; }
inline void begin_block(bool) {}
inline void end_block() {}
template <class F>
inline void order(uint32_t, uint32_t, uint32_t, F) {}
inline void atomic(uint64_t, size_t) {}
struct Own {
    Own() {}
};

#endif

// Releases the sanitizer state of a launch that is aborted.
inline void abandon(const void *stacks, size_t bytes) {
#if defined(KILN_SIM_ADDRESS)
    allow(stacks, bytes);
#elif defined(KILN_SIM_THREAD)
    (void)stacks, (void)bytes;
    end_block();
    for (void *&fiber : fibers)
        if (fiber) __tsan_destroy_fiber(fiber), fiber = nullptr;
    // New ones have to be ordered after these.
    ++orders;
#else
    (void)stacks, (void)bytes;
#endif
}

}  // namespace sim::sanitizer
