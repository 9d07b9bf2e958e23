// argmax and argmin. NaN counts as the largest and as the smallest; of equal elements the first is taken.
#include "reduce.cuh"

// `max min` of all. Blocks: `Reduce::blocks`. `partial` and `values` may be null.
FAMILY(arg_reduce, Reduce plan, address x, address partial, address values, address indices);

template <typename C, bool Largest>
struct Best {
    struct A {
        C value;
        int64_t index;  // -1: none yet
    };
    static __device__ A none() { return A{C(0), -1}; }
    static __device__ A step(A a, C x, int64_t i) { return merge(a, A{x, i}); }
    static __device__ A merge(A a, A b) {
        if (a.index < 0) return b;
        if (b.index < 0) return a;
        bool a_nan = a.value != a.value, b_nan = b.value != b.value;
        bool equal = a_nan ? b_nan : a.value == b.value;
        if (equal) return a.index < b.index ? a : b;
        bool b_wins = b_nan || (!a_nan && (Largest ? b.value > a.value : b.value < a.value));
        return b_wins ? b : a;
    }
};

#define ARG_REDUCE(op, largest, name, T)                                                                         \
    KERNEL arg_reduce_##op##_##name(BY_VALUE Reduce p, const T* x, void* partial, T* values, int64_t* indices) { \
        typedef Best<Compute<T>, largest> F;                                                                     \
        reduce<F>(p, x, static_cast<F::A*>(partial), [values, indices](F::A a, Offsets<3> at) {                  \
            if (values) values[at.at[1]] = store<T>(a.value);                                                    \
            indices[at.at[2]] = a.index;                                                                         \
        });                                                                                                      \
    }
#define BOTH(name, T)                        \
    ARG_REDUCE(max, true, name, T)           \
    ARG_REDUCE(min, false, name, T)
FOR_ALL(BOTH)
