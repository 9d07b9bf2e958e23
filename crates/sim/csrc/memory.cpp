// The memory of the simulated device as kernels see it. Kernels are compiled with `-fsanitize=thread` and
// `-fsanitize=alignment`, and linked with the hooks below instead of the sanitizers' libraries: each memory access is
// checked against the live allocations, recorded for the driver, and, in shared memory, checked for races.
#include "engine.h"
#include "device.h"
#include "sanitizer.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

namespace sim {

Span arena{0, 0};
Span shared{0, 0};

namespace {

constexpr size_t SHARED_BYTES = 256 << 10;
constexpr size_t SLOT_GUARD = 64;
constexpr uint32_t NOBODY = ~0u;

// --- shared memory ---

struct Slot {
    const void *key;
    size_t begin, size;
    const char *name;
};

struct Accessor {
    uint32_t thread = NOBODY, block_epoch = 0, warp_epoch = 0;
};

struct SharedByte {
    Accessor writer, reader, earlier_reader;  // the two latest readers are of different threads
    bool atomic = false, written = false;
};

alignas(256) unsigned char shared_bytes[SHARED_BYTES];
std::vector<SharedByte> shared_shadow(SHARED_BYTES);
std::vector<Slot> slots;
size_t shared_used = 0;

bool unordered(const Accessor &before, const Here &now) {
    if (before.thread == NOBODY || before.thread == now.thread || before.block_epoch != now.block_epoch) return false;
    return before.thread / 32 != now.thread / 32 || before.warp_epoch == now.warp_epoch;
}

const Slot *slot_of(size_t offset, size_t size) {
    for (const Slot &slot : slots)
        if (offset >= slot.begin && offset + size <= slot.begin + slot.size) return &slot;
    return nullptr;
}

void shared_check(uint64_t address, uint32_t size, bool write, bool atomic) {
    const size_t offset = address - shared.begin;
    const Slot *slot = slot_of(offset, size);
    if (!slot) {
        const Slot *near = nullptr;
        for (const Slot &other : slots)
            if (other.begin <= offset) near = &other;
        fault(SIM_SHARED_BOUNDS, true, "%s %u bytes of shared memory outside every variable (byte %zu of `%s`, which has %zu)",
              write ? "writes" : "reads", size, near ? offset - near->begin : offset, near ? near->name : "?",
              near ? near->size : 0);
        return;
    }
    const Here now = here();
    const Accessor me{now.thread, now.block_epoch, now.warp_epoch};
    for (uint32_t i = 0; i < size; ++i) {
        SharedByte &byte = shared_shadow[offset + i];
        if (!write && !byte.written) {
            fault(SIM_SHARED_UNINITIALIZED, false, "reads byte %zu of shared `%s`, which nobody has written",
                  offset + i - slot->begin, slot->name);
            byte.written = true;
        }
        const bool both_atomic = atomic && byte.atomic;
        const Accessor *other = nullptr;
        if (!both_atomic && unordered(byte.writer, now)) other = &byte.writer;
        if (write && !atomic && unordered(byte.reader, now)) other = &byte.reader;
        if (write && !atomic && unordered(byte.earlier_reader, now)) other = &byte.earlier_reader;
        if (other) {
            fault(SIM_SHARED_RACE, false, "%s byte %zu of shared `%s`, which thread %u of the block %s with no barrier between",
                  write ? "writes" : "reads", offset + i - slot->begin, slot->name, other->thread,
                  other == &byte.writer ? "wrote" : "read");
        }
        if (write) {
            byte.writer = me;
            byte.written = true;
            byte.atomic = atomic;
        } else if (byte.reader.thread == now.thread) {
            byte.reader = me;
        } else {
            byte.earlier_reader = byte.reader;
            byte.reader = me;
        }
    }
}

size_t add_slot(const void *key, size_t bytes, size_t alignment, const char *name) {
    const sanitizer::Own own;
    size_t begin = (shared_used + alignment - 1) / alignment * alignment;
    // No more aligned than requested: code that needs more fails here instead of on a device.
    if (alignment < 16 && begin % (2 * alignment) == 0) begin += alignment;
    // AddressSanitizer tracks units of 8 bytes.
    if (sanitizer::PRESENT) begin = (begin + 7) / 8 * 8;
    if (begin + bytes + SLOT_GUARD > SHARED_BYTES) trap("shared memory is larger than any device has", {"shared", 0});
    slots.push_back({key, begin, bytes, name});
    shared_used = begin + bytes + SLOT_GUARD;
    sanitizer::allow(shared_bytes + begin, bytes + SLOT_GUARD);
    std::memset(shared_bytes + begin, 0xff, bytes + SLOT_GUARD);
    sanitizer::forbid(shared_bytes + begin + bytes, SLOT_GUARD);
    if (!sanitizer::PRESENT) std::fill_n(shared_shadow.begin() + long(begin), bytes + SLOT_GUARD, SharedByte{});
    return begin;
}

// --- global memory ---

// Bitmaps with one bit per byte: which bytes of a page the launch has read and written, and which it has read before
// writing them.
enum { READ, WRITTEN, READ_FIRST };
struct Page {
    uint64_t bits[3][64];
};

const SimRange *live, *foreign;
size_t live_count, foreign_count;
SimRange last_live{1, 0};
std::unordered_map<uint64_t, Page> pages;
// A cache of recently used pages, because a kernel traverses several tensors at once.
struct Recent {
    uint64_t index = ~0ull;
    Page *page = nullptr;
};
Recent recent[64];
std::vector<SimRange> ranges[3];

bool find_live(uint64_t begin, uint64_t end) {
    if (begin >= last_live.begin && end <= last_live.end) return true;
    const SimRange *after = std::upper_bound(live, live + live_count, begin,
                                             [](uint64_t address, const SimRange &range) { return address < range.begin; });
    if (after == live || end > after[-1].end) return false;
    last_live = after[-1];
    return true;
}

void mark(uint64_t address, uint32_t size, bool write) {
    for (uint64_t at = address, end = address + size; at < end;) {
        const uint64_t index = at >> 12;
        // Tensors whose sizes are powers of two must not all map to the same entry.
        Recent &cached = recent[(index ^ index >> 6 ^ index >> 12) & 63];
        if (cached.index != index) cached = {index, &pages[index]};
        const uint32_t bit = at & 63, count = uint32_t(std::min<uint64_t>(end - at, 64 - bit));
        const uint64_t bits = (count == 64 ? ~0ull : ((1ull << count) - 1)) << bit;
        const size_t word = (at >> 6) & 63;
        auto &of = cached.page->bits;
        of[write][word] |= bits;
        if (!write) of[READ_FIRST][word] |= bits & ~of[WRITTEN][word];
        at += count;
    }
}

// --- races through global memory ---

// The last writer of a byte, and the two latest threads that read it.
struct GlobalByte {
    Accessor writer, reader, earlier_reader;
    uint64_t writer_block = 0, reader_block = 0, earlier_block = 0;
    bool atomic = false;
};

struct GlobalPage {
    GlobalByte bytes[4096];
};

bool watch_races = false;
std::unordered_map<uint64_t, std::unique_ptr<GlobalPage>> global_shadow;

// Blocks of a launch are unordered.
bool unordered(const Accessor &before, uint64_t block, const Here &now) {
    if (before.thread == NOBODY) return false;
    return block != now.block || unordered(before, now);
}

void race_check(uint64_t address, uint32_t size, bool write, bool atomic) {
    const Here now = here();
    const Accessor me{now.thread, now.block_epoch, now.warp_epoch};
    for (uint64_t at = address; at < address + size; ++at) {
        auto &page = global_shadow[at >> 12];
        if (!page) page = std::make_unique<GlobalPage>();
        GlobalByte &byte = page->bytes[at & 4095];
        const bool both_atomic = atomic && byte.atomic;
        const bool written = !both_atomic && unordered(byte.writer, byte.writer_block, now);
        const bool read = write && !atomic && unordered(byte.reader, byte.reader_block, now);
        const bool read_before = write && !atomic && unordered(byte.earlier_reader, byte.earlier_block, now);
        if (written || read || read_before) {
            const Accessor &other = written ? byte.writer : read ? byte.reader : byte.earlier_reader;
            fault(SIM_GLOBAL_RACE, false, "%s %#llx, which thread %u of block %llu %s in the same launch, in no order",
                  write ? "writes" : "reads", static_cast<unsigned long long>(at), other.thread,
                  static_cast<unsigned long long>(written ? byte.writer_block
                                                  : read  ? byte.reader_block
                                                          : byte.earlier_block),
                  written ? "wrote" : "read");
        }
        if (write) {
            byte.writer = me;
            byte.writer_block = now.block;
            byte.atomic = atomic;
        } else if (byte.reader.thread == now.thread && byte.reader_block == now.block) {
            byte.reader = me;
        } else {
            byte.earlier_reader = byte.reader;
            byte.earlier_block = byte.reader_block;
            byte.reader = me;
            byte.reader_block = now.block;
        }
    }
}

void collect(std::vector<SimRange> &out, const std::vector<uint64_t> &order, int which) {
    out.clear();
    for (uint64_t index : order) {
        const Page &page = pages[index];
        for (uint32_t word = 0; word < 64; ++word) {
            uint64_t bits = page.bits[which][word];
            const uint64_t base = (index << 12) + word * 64;
            while (bits) {
                const int begin = std::countr_zero(bits);
                const int count = std::countr_one(bits >> begin);
                const SimRange range{base + uint64_t(begin), base + uint64_t(begin + count)};
                if (!out.empty() && out.back().end == range.begin) {
                    out.back().end = range.end;
                } else {
                    out.push_back(range);
                }
                bits = begin + count == 64 ? 0 : bits & (~0ull << (begin + count));
            }
        }
    }
}

void check(uint64_t address, uint32_t size, bool write, bool atomic = false) {
    if (arena.has(address)) {
        global_access(address, size, write, atomic);
    } else if (shared.has(address)) {
        shared_check(address, size, write, atomic);
    } else if (address < 65536) {
        fault(SIM_ILLEGAL_ADDRESS, true, "%s %u bytes at %#llx, a null pointer", write ? "writes" : "reads", size,
              static_cast<unsigned long long>(address));
    }
}

}  // namespace

void global_access(uint64_t address, uint32_t size, bool write, bool atomic) {
    if (!find_live(address, address + size)) {
        for (size_t i = 0; i < foreign_count; ++i)
            if (address >= foreign[i].begin && address < foreign[i].end)
                fault(SIM_ILLEGAL_ADDRESS, true, "%s %u bytes at %#llx, which is memory of another device",
                      write ? "writes" : "reads", size, static_cast<unsigned long long>(address));
        const SimRange *after = std::upper_bound(live, live + live_count, address,
                                                 [](uint64_t a, const SimRange &range) { return a < range.begin; });
        if (after != live && address < after[-1].end + (1 << 16)) {
            fault(SIM_ILLEGAL_ADDRESS, true, "%s %u bytes at %#llx, byte %llu of an allocation of %llu bytes",
                  write ? "writes" : "reads", size, static_cast<unsigned long long>(address),
                  static_cast<unsigned long long>(address - after[-1].begin),
                  static_cast<unsigned long long>(after[-1].end - after[-1].begin));
        } else {
            fault(SIM_ILLEGAL_ADDRESS, true, "%s %u bytes at %#llx, which is no live allocation",
                  write ? "writes" : "reads", size, static_cast<unsigned long long>(address));
        }
        return;
    }
    mark(address, size, write);
    if (watch_races) race_check(address, size, write, atomic);
}

void begin_accesses(const SimLaunch &launch) {
    live = launch.live;
    live_count = launch.live_count;
    foreign = launch.foreign;
    foreign_count = launch.foreign_count;
    last_live = {1, 0};
    pages.clear();
    watch_races = launch.races != 0;
    global_shadow.clear();
    std::fill(std::begin(recent), std::end(recent), Recent{});
    shared = {reinterpret_cast<uint64_t>(shared_bytes), SHARED_BYTES};
}

void finish_accesses(SimOutcome &outcome) {
    std::vector<uint64_t> order;
    for (const auto &page : pages) order.push_back(page.first);
    std::sort(order.begin(), order.end());
    for (int which = READ; which <= READ_FIRST; ++which) collect(ranges[which], order, which);
    outcome.reads = ranges[0].data();
    outcome.read_count = ranges[0].size();
    outcome.writes = ranges[1].data();
    outcome.write_count = ranges[1].size();
    outcome.first_reads = ranges[2].data();
    outcome.first_read_count = ranges[2].size();
}

void begin_block(uint32_t dynamic) {
    slots.reserve(64);
    slots.clear();
    sanitizer::forbid(shared_bytes, SHARED_BYTES);
    shared_used = 0;
    // Dynamic memory first, so that its address is the same for every block, as on the device.
    add_slot(nullptr, dynamic, 128, "dynamic shared memory");
}

void check_shared_guards() {
    size_t total = 0;
    for (const Slot &slot : slots) {
        total += slot.size;
        for (size_t i = 0; i < SLOT_GUARD; ++i) {
            if (shared_bytes[slot.begin + slot.size + i] == 0xff) continue;
            fault(SIM_SHARED_BOUNDS, true, "something was written past the end of shared `%s`", slot.name);
        }
    }
    if (total > shared_limit())
        fault(SIM_SHARED_SIZE, true, "uses %zu bytes of shared memory, the launch may use %u", total, shared_limit());
}

void *shared_slot(const void *key, size_t bytes, size_t alignment, const char *name) {
    for (const Slot &slot : slots)
        if (slot.key == key) return shared_bytes + slot.begin;
    return shared_bytes + add_slot(key, bytes, alignment, name);
}

void *dynamic_shared(size_t) { return shared_bytes + slots.front().begin; }

void atomic_access(const volatile void *address, size_t bytes) {
    const uint64_t at = reinterpret_cast<uint64_t>(address);
    if (at % bytes)
        fault(SIM_MISALIGNED, true, "atomic operation on %zu bytes at %#llx, which is not aligned", bytes,
              static_cast<unsigned long long>(at));
    sanitizer::atomic(at, bytes);
    if (sanitizer::PRESENT) return;
    check(at, uint32_t(bytes), false, true);
    check(at, uint32_t(bytes), true, true);
}

}  // namespace sim

extern "C" uint64_t sim_reserve(size_t bytes) {
    void *memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return 0;
    sim::arena = {reinterpret_cast<uint64_t>(memory), bytes};
    return sim::arena.begin;
}

extern "C" int sim_protect(uint64_t address, size_t bytes, int mode) {
    const int protection = mode == 0 ? PROT_NONE : mode == 1 ? PROT_READ : PROT_READ | PROT_WRITE;
    return mprotect(reinterpret_cast<void *>(address), bytes, protection);
}

extern "C" void sim_discard(uint64_t address, size_t bytes) {
    madvise(reinterpret_cast<void *>(address), bytes, MADV_DONTNEED);
    mprotect(reinterpret_cast<void *>(address), bytes, PROT_NONE);
}

extern "C" void sim_forbid(uint64_t address, size_t bytes) {
    sim::sanitizer::forbid(reinterpret_cast<void *>(address), bytes);
}

// --- the compiler's hooks, where no sanitizer's library has them ---

#if !defined(KILN_SIM_ADDRESS) && !defined(KILN_SIM_THREAD)
extern "C" {

#define KILN_SIM_HOOKS(N)                                                                              \
    void __tsan_read##N(void *p) { sim::check(reinterpret_cast<uint64_t>(p), N, false); }              \
    void __tsan_write##N(void *p) { sim::check(reinterpret_cast<uint64_t>(p), N, true); }              \
    void __tsan_unaligned_read##N(void *p) { sim::check(reinterpret_cast<uint64_t>(p), N, false); }    \
    void __tsan_unaligned_write##N(void *p) { sim::check(reinterpret_cast<uint64_t>(p), N, true); }    \
    void __tsan_volatile_read##N(void *p) { sim::check(reinterpret_cast<uint64_t>(p), N, false); }     \
    void __tsan_volatile_write##N(void *p) { sim::check(reinterpret_cast<uint64_t>(p), N, true); }
KILN_SIM_HOOKS(1)
KILN_SIM_HOOKS(2)
KILN_SIM_HOOKS(4)
KILN_SIM_HOOKS(8)
KILN_SIM_HOOKS(16)
#undef KILN_SIM_HOOKS

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_read_range(void *p, size_t size) { sim::check(reinterpret_cast<uint64_t>(p), uint32_t(size), false); }
void __tsan_write_range(void *p, size_t size) { sim::check(reinterpret_cast<uint64_t>(p), uint32_t(size), true); }

struct UbsanSite {
    const char *file;
    uint32_t line, column;
};
struct UbsanType {
    uint16_t kind, info;
    char name[1];
};
struct UbsanMismatch {
    UbsanSite site;
    const UbsanType *type;
    unsigned char log_alignment, access;
};

// The compiler's other checks, each with the location in the source.
#define KILN_SIM_UNDEFINED(name, what, ...)                                                                        \
    void __ubsan_handle_##name(const UbsanSite *site __VA_OPT__(, ) __VA_ARGS__) {                                 \
        if (sim::running) sim::fault(SIM_UNDEFINED, true, "%s:%u: " what, site->file, site->line);                 \
    }
KILN_SIM_UNDEFINED(out_of_bounds, "an index outside an array", uint64_t)
KILN_SIM_UNDEFINED(shift_out_of_bounds, "a shift by more bits than there are, or by a negative number", uint64_t, uint64_t)
KILN_SIM_UNDEFINED(divrem_overflow, "a division by zero, or one that overflows", uint64_t, uint64_t)
KILN_SIM_UNDEFINED(float_cast_overflow, "a number that does not fit the integer type it is converted to", uint64_t)
KILN_SIM_UNDEFINED(load_invalid_value, "an invalid bool or enum value", uint64_t)
KILN_SIM_UNDEFINED(builtin_unreachable, "code that is marked as unreachable")
KILN_SIM_UNDEFINED(missing_return, "a function that ends without returning its value")
#undef KILN_SIM_UNDEFINED

void __ubsan_handle_type_mismatch_v1(const UbsanMismatch *data, uint64_t address) {
    if (!sim::running) return;
    sim::fault(SIM_MISALIGNED, true, "%s:%u: %#llx is not aligned for %s, which needs %u bytes", data->site.file,
               data->site.line, static_cast<unsigned long long>(address), data->type->name,
               1u << data->log_alignment);
}
}
#endif
