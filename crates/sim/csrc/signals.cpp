// Handles faults of the host processor: a kernel that uses an invalid pointer, and a host access to pinned memory that
// a copy is still using.
#include "engine.h"

#include <sys/mman.h>

#include <atomic>
#include <csignal>

namespace sim {
namespace {

constexpr size_t REGIONS = 256;
constexpr size_t HITS = 64;

struct Region {
    std::atomic<uint64_t> begin{0}, size{0};
};

Region regions[REGIONS];
std::atomic<uint64_t> hits[HITS];
std::atomic<size_t> hit_count{0};
struct sigaction previous;

void on_fault(int signal, siginfo_t *info, void *context) {
    const uint64_t address = reinterpret_cast<uint64_t>(info->si_addr);
#if defined(KILN_SIM_ADDRESS)
    // AddressSanitizer reports the location.
    if (running) {
        sigaction(signal, &previous, nullptr);
        return;
    }
#endif
    if (running) {
        fault(SIM_ILLEGAL_ADDRESS, true, "access at %#llx, which is no device memory",
              static_cast<unsigned long long>(address));
    }
    for (Region &region : regions) {
        const uint64_t begin = region.begin.load(), size = region.size.load();
        if (!size || address - begin >= size) continue;
        const size_t slot = hit_count.fetch_add(1);
        if (slot < HITS) hits[slot].store(address);
        mprotect(reinterpret_cast<void *>(begin), size, PROT_READ | PROT_WRITE);
        return;
    }
    // Not ours: the repeated access reaches the previous handler.
    sigaction(signal, &previous, nullptr);
    (void)context;
}

}  // namespace

void install_signals() {
    static bool installed = false;
    if (installed) return;
    installed = true;
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous);
}

}  // namespace sim

extern "C" void sim_watch(uint64_t address, size_t bytes, int mode) {
    using namespace sim;
    install_signals();
    Region *chosen = nullptr;
    for (Region &region : regions) {
        if (region.begin.load() == address && region.size.load()) {
            chosen = &region;
            break;
        }
        if (!chosen && !region.size.load()) chosen = &region;
    }
    // If all entries are taken, the memory is not watched; this is not an error of the program.
    if (!chosen) return;
    if (mode == 2) {
        sim_protect(address, bytes, 2);
        chosen->size.store(0);
    } else {
        chosen->begin.store(address);
        chosen->size.store(bytes);
        sim_protect(address, bytes, mode);
    }
}

extern "C" size_t sim_take_watch_hits(uint64_t *addresses, size_t capacity) {
    using namespace sim;
    const size_t count = hit_count.exchange(0);
    size_t taken = 0;
    for (; taken < count && taken < capacity && taken < HITS; ++taken) addresses[taken] = hits[taken].load();
    return taken;
}
