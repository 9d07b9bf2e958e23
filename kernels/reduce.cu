// Reductions: sums, products, extrema, any and all, variance, log-sum-exp.
#include "real.cuh"
#include "reduce.cuh"

// `sum prod max min any all` of all, `mean var logsumexp` of float. Blocks: `Reduce::blocks`. `partial` may be null.
FAMILY(reduce, Reduce plan, address x, address partial, address out);

// Floats are accumulated in their compute type, everything else in wrapping 64 bits.
template <typename C>
struct Wide {
    typedef uint64_t Type;
};
template <>
struct Wide<f32> {
    typedef f32 Type;
};
template <>
struct Wide<f64> {
    typedef f64 Type;
};

template <typename C>
struct Sum {
    typedef typename Wide<C>::Type A;
    static __device__ A none() { return A(0); }
    static __device__ A step(A a, C x, int64_t) { return a + (A)x; }
    static __device__ A merge(A a, A b) { return a + b; }
    static __device__ A result(A a, const Reduce&) { return a; }
};

template <typename C>
struct Mean : Sum<C> {
    static __device__ C result(C a, const Reduce& p) { return a / (C)p.inner.numel; }
};

template <typename C>
struct Prod {
    typedef typename Wide<C>::Type A;
    static __device__ A none() { return A(1); }
    static __device__ A step(A a, C x, int64_t) { return a * (A)x; }
    static __device__ A merge(A a, A b) { return a * b; }
    static __device__ A result(A a, const Reduce&) { return a; }
};

template <typename C>
struct Limits {
    static __device__ C lowest() { return Bounds<C>::LOW; }
    static __device__ C highest() { return Bounds<C>::HIGH; }
};
template <>
struct Limits<f32> {
    static __device__ f32 lowest() { return -INFINITY; }
    static __device__ f32 highest() { return INFINITY; }
};
template <>
struct Limits<f64> {
    static __device__ f64 lowest() { return -(f64)INFINITY; }
    static __device__ f64 highest() { return (f64)INFINITY; }
};

// NaN wins.
template <typename C>
struct Max {
    typedef C A;
    static __device__ A none() { return Limits<C>::lowest(); }
    static __device__ A step(A a, C x, int64_t) { return x > a || x != x ? x : a; }
    static __device__ A merge(A a, A b) { return step(a, b, 0); }
    static __device__ A result(A a, const Reduce&) { return a; }
};

template <typename C>
struct Min {
    typedef C A;
    static __device__ A none() { return Limits<C>::highest(); }
    static __device__ A step(A a, C x, int64_t) { return x < a || x != x ? x : a; }
    static __device__ A merge(A a, A b) { return step(a, b, 0); }
    static __device__ A result(A a, const Reduce&) { return a; }
};

template <typename C>
struct Any {
    typedef u8 A;
    static __device__ A none() { return 0; }
    static __device__ A step(A a, C x, int64_t) { return a | (x != C(0)); }
    static __device__ A merge(A a, A b) { return a | b; }
    static __device__ A result(A a, const Reduce&) { return a; }
};

template <typename C>
struct All {
    typedef u8 A;
    static __device__ A none() { return 1; }
    static __device__ A step(A a, C x, int64_t) { return a & (x != C(0)); }
    static __device__ A merge(A a, A b) { return a & b; }
    static __device__ A result(A a, const Reduce&) { return a; }
};

// Count, mean and sum of squared deviations, in one pass (Welford, 1962; merged as by Chan, Golub & LeVeque, 1979).
template <typename C>
struct Var {
    struct A {
        C count, mean, squares;
    };
    static __device__ A none() { return A{C(0), C(0), C(0)}; }
    static __device__ A step(A a, C x, int64_t) {
        C count = a.count + C(1), distance = x - a.mean;
        C mean = a.mean + distance / count;
        return A{count, mean, a.squares + distance * (x - mean)};
    }
    static __device__ A merge(A a, A b) {
        if (b.count == C(0)) return a;
        if (a.count == C(0)) return b;
        C count = a.count + b.count, distance = b.mean - a.mean, share = b.count / count;
        return A{count, a.mean + distance * share, a.squares + b.squares + distance * distance * a.count * share};
    }
    static __device__ C result(A a, const Reduce& p) {
        f64 divisor = (f64)p.inner.numel - p.correction;
        return a.squares / (C)(divisor > 0 ? divisor : 0);
    }
};

// The largest element and the sum of exponentials of the distances from it.
template <typename C>
struct LogSumExp {
    struct A {
        C largest, sum;
    };
    static __device__ A none() { return A{-(C)INFINITY, C(0)}; }
    static __device__ A step(A a, C x, int64_t) { return merge(a, A{x, C(1)}); }
    static __device__ A merge(A a, A b) {
        C largest = real::maximum(a.largest, b.largest);
        // An infinite or NaN largest element is the result itself: its difference from itself would be NaN.
        C center = real::abs(largest) == (C)INFINITY ? C(0) : largest;
        return A{largest, scaled(a, center) + scaled(b, center)};
    }
    static __device__ C scaled(A a, C center) {
        return a.sum == C(0) ? C(0) : a.sum * real::exp(a.largest - center);
    }
    static __device__ C result(A a, const Reduce&) {
        if (real::abs(a.largest) == (C)INFINITY) return a.largest;
        return real::log(a.sum) + a.largest;
    }
};

#define REDUCE(op, Op, name, T, O)                                                                            \
    KERNEL_OF(4) reduce_##op##_##name(BY_VALUE Reduce p, const T* x, void* partial, O* out) {                 \
        typedef Op<Compute<T>> F;                                                                             \
        reduce<F>(p, x, static_cast<F::A*>(partial), [&p, out](F::A a, Offsets<3> at) {                       \
            out[at.at[1]] = store<O>((Compute<O>)F::result(a, p));                                            \
        });                                                                                                   \
    }
#define FLOATS(name, T)                             \
    REDUCE(sum, Sum, name, T, T)                    \
    REDUCE(prod, Prod, name, T, T)                  \
    REDUCE(mean, Mean, name, T, T)                  \
    REDUCE(var, Var, name, T, T)                    \
    REDUCE(logsumexp, LogSumExp, name, T, T)
#define WHOLE(name, T)                              \
    REDUCE(sum, Sum, name, T, i64)                  \
    REDUCE(prod, Prod, name, T, i64)
#define EVERY(name, T)                              \
    REDUCE(max, Max, name, T, T)                    \
    REDUCE(min, Min, name, T, T)                    \
    REDUCE(any, Any, name, T, truth)                \
    REDUCE(all, All, name, T, truth)
FOR_FLOAT(FLOATS)
FOR_INT(WHOLE)
WHOLE(bool, truth)
FOR_ALL(EVERY)
