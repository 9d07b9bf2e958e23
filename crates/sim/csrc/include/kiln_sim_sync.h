// Barriers, warp operations, atomics, and dynamic shared memory.
#pragma once

// A default argument is evaluated at the call, so each of these names its caller's line.
#define KILN_SIM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define KILN_SIM_HERE ::sim::Site{file, line}

inline void __syncthreads(KILN_SIM_SITE) { ::sim::barrier(::sim::BARRIER_SYNC, 1, KILN_SIM_HERE); }
inline int __syncthreads_count(int p, KILN_SIM_SITE) { return int(::sim::barrier(::sim::BARRIER_COUNT, p != 0, KILN_SIM_HERE)); }
inline int __syncthreads_and(int p, KILN_SIM_SITE) { return int(::sim::barrier(::sim::BARRIER_AND, p != 0, KILN_SIM_HERE)); }
inline int __syncthreads_or(int p, KILN_SIM_SITE) { return int(::sim::barrier(::sim::BARRIER_OR, p != 0, KILN_SIM_HERE)); }

inline void __syncwarp(unsigned mask = 0xffffffffu, KILN_SIM_SITE) { ::sim::warp(::sim::WARP_SYNC, mask, 0, 0, KILN_SIM_HERE); }
inline unsigned __activemask() { return ::sim::active_mask(); }
inline unsigned __ballot_sync(unsigned mask, int p, KILN_SIM_SITE) {
    return unsigned(::sim::warp(::sim::WARP_VOTE, mask, p != 0, 0, KILN_SIM_HERE));
}
inline int __any_sync(unsigned mask, int p, KILN_SIM_SITE) { return __ballot_sync(mask, p, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, KILN_SIM_SITE) { return __ballot_sync(mask, !p, file, line) == 0; }

namespace sim {
template <class T>
inline T shuffle(unsigned mask, T value, int source, Site site) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "shuffles move at most 64 bits");
    uint64_t raw = 0;
    __builtin_memcpy(&raw, &value, sizeof value);
    raw = warp(WARP_SHUFFLE, mask, raw, source, site);
    __builtin_memcpy(&value, &raw, sizeof value);
    return value;
}
}  // namespace sim

// The source lane, by the rules of the `shfl.sync` instruction: a segment is `width` lanes, and a lane whose source
// would be outside its segment keeps its own value.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, KILN_SIM_SITE) {
    const int lane = int(::sim::lane_index());
    return ::sim::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), KILN_SIM_HERE);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, KILN_SIM_SITE) {
    const int lane = int(::sim::lane_index()), from = lane - int(delta);
    return ::sim::shuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from, KILN_SIM_HERE);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, KILN_SIM_SITE) {
    const int lane = int(::sim::lane_index()), from = lane + int(delta);
    return ::sim::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, KILN_SIM_HERE);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, KILN_SIM_SITE) {
    const int lane = int(::sim::lane_index()), from = lane ^ lanes;
    return ::sim::shuffle(mask, value, from > (lane | (width - 1)) ? lane : from, KILN_SIM_HERE);
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __trap(KILN_SIM_SITE) { ::sim::trap("trap", KILN_SIM_HERE); }
#undef assert
#define assert(condition) ((condition) ? void() : ::sim::trap("assertion failed: " #condition, {__FILE__, __LINE__}))

namespace sim {
// A parameter type from which T is not deduced (`std::type_identity`, which C++17 does not have).
template <class T>
struct TypeIdentity {
    typedef T type;
};
template <class T>
using type_identity_t = typename TypeIdentity<T>::type;

// Blocks run one thread at a time, so an atomic operation is an ordinary one, marked as atomic for the checks.
template <class T, class F>
__attribute__((no_sanitize("thread"), noinline)) inline T atomically(T *address, F change) {
    atomic_access(address, sizeof(T));
    const T old = *address;
    *address = change(old);
    return old;
}
}  // namespace sim

// As on the device: integers of 32 and 64 bits, and floats for functions that support them.
#define KILN_SIM_ATOMIC(name, expression)                                                        \
    template <class T>                                                                           \
    inline T name(T *address, ::sim::type_identity_t<T> value) {                                   \
        static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics are of 32 or 64 bits");         \
        return ::sim::atomically(address, [value](T old) -> T { return expression; });           \
    }
KILN_SIM_ATOMIC(atomicAdd, T(old + value))
KILN_SIM_ATOMIC(atomicSub, T(old - value))
KILN_SIM_ATOMIC(atomicExch, ((void)old, value))
KILN_SIM_ATOMIC(atomicMin, old < value ? old : value)
KILN_SIM_ATOMIC(atomicMax, old < value ? value : old)
KILN_SIM_ATOMIC(atomicAnd, T(old & value))
KILN_SIM_ATOMIC(atomicOr, T(old | value))
KILN_SIM_ATOMIC(atomicXor, T(old ^ value))
KILN_SIM_ATOMIC(atomicInc, old >= value ? T(0) : T(old + 1))
KILN_SIM_ATOMIC(atomicDec, old == 0 || old > value ? value : T(old - 1))
#undef KILN_SIM_ATOMIC
template <class T>
inline T atomicCAS(T *address, ::sim::type_identity_t<T> expected, ::sim::type_identity_t<T> value) {
    return ::sim::atomically(address, [=](T old) { return old == expected ? value : old; });
}

// Loads with cache hints.
template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline void __stcs(T *p, ::sim::type_identity_t<T> value) { *p = value; }
template <class T> inline void __stcg(T *p, ::sim::type_identity_t<T> value) { *p = value; }
