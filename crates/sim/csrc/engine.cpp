// Runs a launch: one fiber for each thread, resumed in the order that the seed determines. A fiber that never waits
// ends on the stack that the next thread starts on, so kernels without barriers cost two stack switches per thread.
#include "engine.h"
#include "device.h"
#include "sanitizer.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace sim {
namespace {

constexpr size_t STACK = 128 << 10;
constexpr size_t GUARD = 4096;
constexpr uint32_t MAX_THREADS = 1024;

enum State : uint8_t { FRESH, READY, BARRIER, WARP, DONE };

struct Thread {
    State state;
    uint32_t x, y, z;
    void *stack_pointer;
    int stack;
    Site site;
    // Operands of the thread at a barrier or warp operation, and the result.
    uint32_t operation, mask;
    uint64_t value, result;
    int source;
};

struct Engine {
    SimLaunch launch;
    dim3 block_index;
    std::vector<Thread> threads;
    std::vector<uint32_t> warp_epochs;
    std::vector<int> free_stacks;
    std::vector<SimFault> faults;
    uint32_t block_epoch = 0;
    uint32_t current = 0;
    void *scheduler = nullptr;
    char *stacks = nullptr;
    sigjmp_buf abandon;
};

Engine engine;

char *stack_base(int index) { return engine.stacks + size_t(index) * (STACK + GUARD) + GUARD; }

}  // namespace

bool running = false;

// A hand-written context switch: `swapcontext` would make two system calls each time.
#if defined(__x86_64__)
extern "C" void sim_switch(void **save, void *load);
asm(R"(
.text
.globl sim_switch
.hidden sim_switch
.type sim_switch, @function
sim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size sim_switch, .-sim_switch
)");

static void *new_stack(int index, void (*start)()) {
    auto top = reinterpret_cast<uint64_t *>(stack_base(index) + STACK);
    *--top = 0;  // keeps the stack aligned as a call would leave it
    *--top = reinterpret_cast<uint64_t>(start);
    for (int i = 0; i < 6; ++i) *--top = 0;
    return top;
}
#elif defined(__aarch64__)
extern "C" void sim_switch(void **save, void *load);
asm(R"(
.text
.globl sim_switch
.hidden sim_switch
.type sim_switch, %function
sim_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size sim_switch, .-sim_switch
)");

static void *new_stack(int index, void (*start)()) {
    auto top = reinterpret_cast<uint64_t *>(stack_base(index) + STACK) - 20;
    std::memset(top, 0, 160);
    top[11] = reinterpret_cast<uint64_t>(start);
    return top;
}
#else
#error "the simulator knows how to switch stacks on x86-64 and AArch64"
#endif

static Thread &self() { return engine.threads[engine.current]; }

static void to_scheduler() {
    sanitizer::leave_fiber();
    sim_switch(&self().stack_pointer, engine.scheduler);
    sanitizer::in_fiber();
}

static void thread_main() {
    sanitizer::in_fiber();
    engine.launch.kernel->call(engine.launch.arguments);
    self().state = DONE;
    to_scheduler();
    __builtin_unreachable();
}

Here here() {
    const dim3 &at = engine.block_index;
    const uint32_t *grid = engine.launch.grid;
    return {engine.current, engine.block_epoch, engine.warp_epochs[engine.current / 32],
            at.x + uint64_t(grid[0]) * (at.y + uint64_t(grid[1]) * at.z)};
}

static void copy(uint32_t (&out)[3], uint32_t x, uint32_t y, uint32_t z) { out[0] = x, out[1] = y, out[2] = z; }

static void record(uint32_t thread, SimFaultKind kind, bool fatal, const char *format, va_list arguments) {
    SimFault fault{};
    fault.kind = kind;
    fault.fatal = fatal;
    copy(fault.block, engine.block_index.x, engine.block_index.y, engine.block_index.z);
    const Thread &at = engine.threads[thread];
    copy(fault.thread, at.x, at.y, at.z);
    vsnprintf(fault.text, sizeof fault.text, format, arguments);
    // One fault per kind: a broken kernel would otherwise report the same for each of its threads.
    for (const SimFault &seen : engine.faults)
        if (seen.kind == kind) return;
    engine.faults.push_back(fault);
}

void fault(SimFaultKind kind, bool fatal, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record(engine.current, kind, fatal, format, arguments);
    va_end(arguments);
    if (fatal) abandon_launch();
}

static void fault_of(uint32_t thread, SimFaultKind kind, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    record(thread, kind, true, format, arguments);
    va_end(arguments);
    abandon_launch();
}

void abandon_launch() {
    if (sanitizer::OWN_STACKS) sanitizer::leave_fiber();
    siglongjmp(engine.abandon, 1);
}

static bool exists(uint32_t thread) { return thread < engine.threads.size(); }

// Completes a warp operation if all lanes in its mask have arrived.
static void try_warp(uint32_t thread) {
    const Thread &first = engine.threads[thread];
    const uint32_t base = thread / 32 * 32;
    for (uint32_t lane = 0; lane < 32; ++lane) {
        if (!(first.mask >> lane & 1)) continue;
        if (!exists(base + lane)) {
            fault_of(thread, SIM_WARP_MASK, "%s:%d: mask %#x names lane %u, which the block does not have",
                     first.site.file, first.site.line, first.mask, lane);
        }
        const Thread &other = engine.threads[base + lane];
        if (other.state != WARP || other.operation != first.operation || other.mask != first.mask) return;
    }
    // Shuffles and votes do not order accesses to memory (CUDA C++ Programming Guide, "Warp Shuffle Functions").
    if (first.operation == WARP_SYNC) {
        ++engine.warp_epochs[thread / 32];
        sanitizer::order(base + uint32_t(std::countr_zero(first.mask)), base, base + 32,
                         [&first, base](uint32_t index) { return first.mask >> (index - base) & 1; });
    }
    uint32_t ballot = 0;
    for (uint32_t lane = 0; lane < 32; ++lane)
        if ((first.mask >> lane & 1) && engine.threads[base + lane].value) ballot |= 1u << lane;
    const uint32_t mask = first.mask, operation = first.operation;
    for (uint32_t lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Thread &to = engine.threads[base + lane];
        if (operation == WARP_SHUFFLE) {
            const uint32_t from = uint32_t(to.source);
            // Reading from a lane outside the mask is undefined in CUDA: the result is the value least likely to pass
            // unnoticed.
            to.result = from < 32 && (mask >> from & 1) ? engine.threads[base + from].value : ~0ull;
            if (!(from < 32 && (mask >> from & 1)))
                fault_of(base + lane, SIM_WARP_MASK, "%s:%d: shuffle reads lane %u, which mask %#x does not name",
                         to.site.file, to.site.line, from, mask);
        } else {
            to.result = ballot;
        }
        to.state = READY;
    }
}

// Nothing that a block's threads do from now on can race with what they did before.
static void order_block() {
    sanitizer::order(sanitizer::BLOCK, 0, uint32_t(engine.threads.size()), [](uint32_t) { return true; });
}

// Called when no thread can continue: either a barrier is complete, or a thread waits in vain.
static bool try_barrier() {
    const Thread *first = nullptr;
    uint64_t count = 0;
    for (Thread &thread : engine.threads) {
        if (thread.state == WARP) {
            const uint32_t index = uint32_t(&thread - engine.threads.data());
            for (uint32_t lane = 0; lane < 32; ++lane) {
                if (!(thread.mask >> lane & 1)) continue;
                const Thread &other = engine.threads[index / 32 * 32 + lane];
                if (other.state != WARP || other.operation != thread.operation || other.mask != thread.mask)
                    fault_of(index, SIM_WARP_MASK,
                             "%s:%d: waits for lane %u, which mask %#x names and which does not come (it %s)",
                             thread.site.file, thread.site.line, lane, thread.mask,
                             other.state == DONE ? "has ended" : "is elsewhere");
            }
        }
        if (thread.state == BARRIER) {
            if (!first) first = &thread;
            count += thread.value != 0;
        }
    }
    if (!first) return false;
    bool all = true;
    for (Thread &thread : engine.threads) {
        const uint32_t index = uint32_t(&thread - engine.threads.data());
        if (thread.state == DONE) {
            fault_of(index, SIM_DIVERGENT_BARRIER, "has ended while others of its block wait at the barrier of %s:%d",
                     first->site.file, first->site.line);
        }
        if (thread.site.line != first->site.line || strcmp(thread.site.file, first->site.file)) {
            fault_of(index, SIM_DIVERGENT_BARRIER, "waits at the barrier of %s:%d, others of its block at that of %s:%d",
                     thread.site.file, thread.site.line, first->site.file, first->site.line);
        }
        all = all && thread.value != 0;
    }
    ++engine.block_epoch;
    order_block();
    for (Thread &thread : engine.threads) {
        thread.result = thread.operation == BARRIER_COUNT ? count : thread.operation == BARRIER_AND ? all : count != 0;
        thread.state = READY;
    }
    return true;
}

static void resume(uint32_t index) {
    Thread &thread = engine.threads[index];
    engine.current = index;
    if (thread.state == FRESH) {
        if (sanitizer::OWN_STACKS) {
            thread.stack = int(index);
        } else {
            thread.stack = engine.free_stacks.back();
            engine.free_stacks.pop_back();
        }
        thread.stack_pointer = new_stack(thread.stack, thread_main);
        thread.state = READY;
    }
    sanitizer::before_fiber(index, stack_base(thread.stack), STACK);
    sim_switch(&engine.scheduler, thread.stack_pointer);
    sanitizer::after_fiber();
    if (thread.state == DONE) {
        if (!sanitizer::OWN_STACKS) engine.free_stacks.push_back(thread.stack);
    } else if (thread.state == WARP) {
        try_warp(index);
    }
}

static void run_block(const std::vector<uint32_t> &order) {
    for (Thread &thread : engine.threads) thread.state = FRESH, thread.site = {"", 0};
    std::fill(engine.warp_epochs.begin(), engine.warp_epochs.end(), 0);
    engine.block_epoch = 0;
    begin_block(engine.launch.dynamic_shared);
    for (;;) {
        bool moved = false;
        for (uint32_t index : order) {
            if (engine.threads[index].state > READY) continue;
            moved = true;
            resume(index);
        }
        if (!moved && !try_barrier()) break;
    }
    // The next block has other threads with the same indices, and the same shared memory.
    order_block();
    check_shared_guards();
}

template <class T, class R>
static void arrange(std::vector<T> &items, uint32_t order, R &random) {
    if (order == 1) std::reverse(items.begin(), items.end());
    if (order == 2) std::shuffle(items.begin(), items.end(), random);
}

static void run_blocks() {
    const SimLaunch &launch = engine.launch;
    const uint32_t *block = launch.block, *grid = launch.grid;
    const uint32_t count = block[0] * block[1] * block[2];
    engine.threads.assign(count, Thread{});
    engine.warp_epochs.assign((count + 31) / 32, 0);
    for (uint32_t i = 0; i < count; ++i) {
        engine.threads[i].x = i % block[0];
        engine.threads[i].y = i / block[0] % block[1];
        engine.threads[i].z = i / (block[0] * block[1]);
    }
    engine.free_stacks.resize(MAX_THREADS);
    std::iota(engine.free_stacks.begin(), engine.free_stacks.end(), 0);
    const bool watched = sanitizer::begin_launch(launch, count);
    std::mt19937_64 random(launch.seed);
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    arrange(order, launch.order, random);
    std::vector<uint64_t> blocks(uint64_t(grid[0]) * grid[1] * grid[2]);
    std::iota(blocks.begin(), blocks.end(), 0);
    arrange(blocks, launch.order, random);
    for (uint64_t index : blocks) {
        engine.block_index = dim3(uint32_t(index % grid[0]), uint32_t(index / grid[0] % grid[1]),
                                  uint32_t(index / (uint64_t(grid[0]) * grid[1])));
        sanitizer::begin_block(watched && sanitizer::is_at_edge(launch, engine.block_index));
        run_block(order);
        sanitizer::end_block();
    }
}

static void prepare_stacks() {
    if (engine.stacks) return;
    const size_t bytes = (STACK + GUARD) * MAX_THREADS;
    void *memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("the simulated device: no address space for its threads' stacks");
        abort();
    }
    engine.stacks = static_cast<char *>(memory);
    for (uint32_t i = 0; i < MAX_THREADS; ++i) mprotect(stack_base(int(i)), STACK, PROT_READ | PROT_WRITE);
}

// --- what kernels call ---------------------------------------------------------------------------------------

uint3 thread_index() {
    const Thread &at = self();
    return {at.x, at.y, at.z};
}
uint3 block_index() { return {engine.block_index.x, engine.block_index.y, engine.block_index.z}; }
dim3 block_extent() { return {engine.launch.block[0], engine.launch.block[1], engine.launch.block[2]}; }
dim3 grid_extent() { return {engine.launch.grid[0], engine.launch.grid[1], engine.launch.grid[2]}; }

uint64_t barrier(uint32_t operation, uint64_t value, Site site) {
    Thread &thread = self();
    thread.state = BARRIER;
    thread.operation = operation;
    thread.value = value;
    thread.site = site;
    to_scheduler();
    return self().result;
}

uint64_t warp(uint32_t operation, uint32_t mask, uint64_t value, int source, Site site) {
    Thread &thread = self();
    const uint32_t lane = engine.current % 32;
    if (!(mask >> lane & 1))
        fault(SIM_WARP_MASK, true, "%s:%d: lane %u is not named by its own mask %#x", site.file, site.line, lane, mask);
    thread.state = WARP;
    thread.operation = operation;
    thread.mask = mask;
    thread.value = value;
    thread.source = source;
    thread.site = site;
    to_scheduler();
    return self().result;
}

uint32_t lane_index() { return engine.current % 32; }

uint32_t active_mask() {
    uint32_t mask = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) {
        const uint32_t index = engine.current / 32 * 32 + lane;
        if (exists(index) && engine.threads[index].state != DONE) mask |= 1u << lane;
    }
    return mask;
}

void trap(const char *what, Site site) {
    fault(SIM_TRAP, true, "%s:%d: %s", site.file, site.line, what);
    __builtin_unreachable();
}

uint32_t dynamic_shared_bytes() { return engine.launch.dynamic_shared; }
uint32_t shared_limit() { return engine.launch.shared_limit; }

}  // namespace sim

extern "C" void sim_run(const SimLaunch *launch, SimOutcome *outcome) {
    using namespace sim;
    prepare_stacks();
    install_signals();
    engine.launch = *launch;
    engine.faults.clear();
    begin_accesses(*launch);
    running = true;
    if (!sigsetjmp(engine.abandon, 1)) {
        run_blocks();
    } else {
        sanitizer::abandon(engine.stacks, (STACK + GUARD) * MAX_THREADS);
    }
    running = false;
    finish_accesses(*outcome);
    outcome->faults = engine.faults.data();
    outcome->fault_count = engine.faults.size();
}
