// The interface between the engine that runs kernels (C++) and the driver (Rust, `src/engine.rs`).
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

// One kernel, as `build.rs` finds it in a kernel file.
struct SimKernel {
    const char *name;
    void (*call)(void **arguments);
    const uint32_t *sizes;  // of each parameter, in bytes
    const uint8_t *kinds;   // 0 a value, 1 a pointer to constant data, 2 a pointer
    uint32_t count;
    const SimKernel *next;  // of the same file
};

// The kernels of one file.
struct SimTable {
    const SimKernel *const *first;
};

// A live allocation, sorted by `begin` in the array that a launch carries.
struct SimRange {
    uint64_t begin, end;
};

struct SimLaunch {
    const SimKernel *kernel;
    void **arguments;
    uint32_t grid[3], block[3];
    uint32_t dynamic_shared;
    uint32_t shared_limit;
    uint32_t order;  // 0 in order, 1 reversed, 2 random
    uint32_t races;  // whether accesses to global memory by threads that nothing orders are looked for
    uint64_t seed;
    const SimRange *live;
    size_t live_count;
    // Allocations of other devices.
    const SimRange *foreign;
    size_t foreign_count;
};

enum SimFaultKind : uint32_t {
    SIM_ILLEGAL_ADDRESS = 1,
    SIM_MISALIGNED = 2,
    SIM_DIVERGENT_BARRIER = 3,
    SIM_WARP_MASK = 4,
    SIM_SHARED_RACE = 5,
    SIM_SHARED_BOUNDS = 6,
    SIM_TRAP = 7,
    SIM_SHARED_SIZE = 8,
    SIM_SHARED_UNINITIALIZED = 9,
    SIM_GLOBAL_RACE = 10,
    SIM_UNDEFINED = 11,
};

struct SimFault {
    uint32_t kind;
    uint32_t fatal;
    uint32_t block[3], thread[3];
    char text[320];
};

// What a launch accessed in global memory, as sorted disjoint ranges, and its faults. The arrays live until the next
// launch.
struct SimOutcome {
    const SimRange *reads, *writes;
    const SimRange *first_reads;  // what was read before this launch had written it
    size_t read_count, write_count, first_read_count;
    const SimFault *faults;
    size_t fault_count;
};

extern const SimTable *const sim_tables[];
extern const size_t sim_table_count;
extern const size_t sim_framework_table_count;  // those that are not of the simulator's own tests

void sim_run(const SimLaunch *launch, SimOutcome *outcome);

// Address space: device memory is in one reserved span, pinned host memory in another.
uint64_t sim_reserve(size_t bytes);
int sim_protect(uint64_t address, size_t bytes, int mode);  // 0 no access, 1 read, 2 read and write
void sim_discard(uint64_t address, size_t bytes);
// Marks the bytes after an allocation as inaccessible, for the sanitizers.
void sim_forbid(uint64_t address, size_t bytes);
// Marks a pinned region as in use by the device: host access to it is reported and let through.
void sim_watch(uint64_t address, size_t bytes, int mode);
size_t sim_take_watch_hits(uint64_t *addresses, size_t capacity);
}

// The parts of the engine that kernels use.
namespace sim {
struct Span {
    uint64_t begin, size;
    bool has(uint64_t address) const { return address - begin < size; }
};
extern Span arena;   // device memory and pinned host memory
extern Span shared;  // shared memory of the running block
extern bool running;

void install_signals();
void begin_accesses(const SimLaunch &launch);
void finish_accesses(SimOutcome &outcome);
void begin_block(uint32_t dynamic_shared);
void global_access(uint64_t address, uint32_t size, bool write, bool atomic);
void shared_access(uint64_t address, uint32_t size, bool write);
void check_shared_guards();

struct Here {
    uint32_t thread;       // linear index in the block
    uint32_t block_epoch;  // barriers passed
    uint32_t warp_epoch;   // synchronizations of this thread's warp
    uint64_t block;        // linear index in the grid
};
Here here();
// Records a fault of the running thread; a fatal one does not return while a kernel runs.
void fault(SimFaultKind kind, bool fatal, const char *format, ...) __attribute__((format(printf, 3, 4)));
void abandon_launch();
}
