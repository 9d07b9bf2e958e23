// The loops of element-wise kernels: 16 bytes of each operand at a time where all operands are contiguous and aligned,
// element by element through strides elsewhere.
#pragma once
#include "common.cuh"

// Several elements that are read or written at once.
template <int Bytes>
struct Words;
template <>
struct Words<1> {
    typedef uint8_t Type;
};
template <>
struct Words<2> {
    typedef uint16_t Type;
};
template <>
struct Words<4> {
    typedef uint32_t Type;
};
template <>
struct Words<8> {
    typedef uint2 Type;
};
template <>
struct Words<16> {
    typedef uint4 Type;
};

template <typename T, int V>
union Pack {
    typename Words<sizeof(T) * V>::Type words;
    T elements[V];
};

template <typename T, int V>
__device__ inline Pack<T, V> read_pack(const T* from) {
    Pack<T, V> pack;
    pack.words = *reinterpret_cast<const typename Words<sizeof(T) * V>::Type*>(from);
    return pack;
}

template <typename T, int V>
__device__ inline void write_pack(T* to, const Pack<T, V>& pack) {
    *reinterpret_cast<typename Words<sizeof(T) * V>::Type*>(to) = pack.words;
}

// A tensor operand.
template <typename T>
struct Tensor {
    typedef T Stored;
    const T* from;

    __device__ Compute<T> at(int64_t offset) const { return load(from[offset]); }

    // V contiguous elements from position i on.
    template <int V>
    __device__ void pack(uint64_t i, Compute<T> (&out)[V]) const {
        Pack<T, V> pack = read_pack<T, V>(from + i);
#pragma unroll
        for (int v = 0; v < V; ++v) out[v] = load(pack.elements[v]);
    }
};

// A tensor operand, or a number if the pointer is null.
template <typename T>
struct Input {
    typedef T Stored;
    const T* from;
    Compute<T> number;

    __device__ Compute<T> at(int64_t offset) const { return from ? load(from[offset]) : number; }

    template <int V>
    __device__ void pack(uint64_t i, Compute<T> (&out)[V]) const {
        if (from) {
            Tensor<T>{from}.pack(i, out);
        } else {
#pragma unroll
            for (int v = 0; v < V; ++v) out[v] = number;
        }
    }
};

template <typename T>
__device__ inline Tensor<T> tensor(const T* from) {
    return Tensor<T>{from};
}

template <typename T>
__device__ inline Input<T> operand(const T* from, uint64_t number) {
    return Input<T>{from, Number<Compute<T>>::value(number)};
}

// How many elements of up to `size` bytes are processed at once: 16 bytes of the widest operand, and no more than
// `most`, because the function is compiled once for each. Slow functions pass 1: single coalesced accesses keep up with
// them.
constexpr int ALL = 16;
constexpr int FEW = 4;
constexpr int ONE = 1;

__host__ __device__ constexpr int widest(int a, int b) { return a > b ? a : b; }
__host__ __device__ constexpr int at_once(int most, int size) { return 16 / size < most ? 16 / size : most; }

// out = f(x)
template <int Most, typename O, typename A, typename F>
__device__ inline void map1(const Grid<2>& grid, A a, O* out, F f) {
    constexpr int V = at_once(Most, widest(sizeof(typename A::Stored), sizeof(O)));
    uint64_t n = grid.numel, step = thread_count(), i = thread_index();
    if (V > 1 && (grid.flags & VECTOR)) {
        uint64_t packs = n / V;
#pragma unroll 1
        for (uint64_t p = i; p < packs; p += step) {
            Compute<typename A::Stored> x[V];
            a.pack(p * V, x);
            Pack<O, V> result;
#pragma unroll
            for (int v = 0; v < V; ++v) result.elements[v] = store<O>(f(x[v]));
            write_pack(out + p * V, result);
        }
        i += packs * V;
    }
#pragma unroll 1
    for (; i < n; i += step) {
        Offsets<2> at = locate(grid, i);
        out[at.at[1]] = store<O>(f(a.at(at.at[0])));
    }
}

// out = f(a, b)
template <int Most, typename O, typename A, typename B, typename F>
__device__ inline void map2(const Grid<3>& grid, A a, B b, O* out, F f) {
    constexpr int V = at_once(Most, widest(widest(sizeof(typename A::Stored), sizeof(typename B::Stored)), sizeof(O)));
    uint64_t n = grid.numel, step = thread_count(), i = thread_index();
    if (V > 1 && (grid.flags & VECTOR)) {
        uint64_t packs = n / V;
#pragma unroll 1
        for (uint64_t p = i; p < packs; p += step) {
            Compute<typename A::Stored> x[V];
            Compute<typename B::Stored> y[V];
            a.pack(p * V, x);
            b.pack(p * V, y);
            Pack<O, V> result;
#pragma unroll
            for (int v = 0; v < V; ++v) result.elements[v] = store<O>(f(x[v], y[v]));
            write_pack(out + p * V, result);
        }
        i += packs * V;
    }
#pragma unroll 1
    for (; i < n; i += step) {
        Offsets<3> at = locate(grid, i);
        out[at.at[2]] = store<O>(f(a.at(at.at[0]), b.at(at.at[1])));
    }
}

// out = f(a, b, c)
template <int Most, typename O, typename A, typename B, typename C, typename F>
__device__ inline void map3(const Grid<4>& grid, A a, B b, C c, O* out, F f) {
    constexpr int V = at_once(Most, widest(widest(sizeof(typename A::Stored), sizeof(typename B::Stored)), widest(sizeof(typename C::Stored), sizeof(O))));
    uint64_t n = grid.numel, step = thread_count(), i = thread_index();
    if (V > 1 && (grid.flags & VECTOR)) {
        uint64_t packs = n / V;
#pragma unroll 1
        for (uint64_t p = i; p < packs; p += step) {
            Compute<typename A::Stored> x[V];
            Compute<typename B::Stored> y[V];
            Compute<typename C::Stored> z[V];
            a.pack(p * V, x);
            b.pack(p * V, y);
            c.pack(p * V, z);
            Pack<O, V> result;
#pragma unroll
            for (int v = 0; v < V; ++v) result.elements[v] = store<O>(f(x[v], y[v], z[v]));
            write_pack(out + p * V, result);
        }
        i += packs * V;
    }
#pragma unroll 1
    for (; i < n; i += step) {
        Offsets<4> at = locate(grid, i);
        out[at.at[3]] = store<O>(f(a.at(at.at[0]), b.at(at.at[1]), c.at(at.at[2])));
    }
}
