// Random numbers by position: element n depends only on the seed, the offset and n, and equals the CPU's.
#include "convert.cuh"
#include "normal.cuh"
#include "philox.cuh"
#include "real.cuh"

// `uniform` of float: a = low, b = high - low, c = the largest value. `normal` of float: a = mean, b = std.
FAMILY(random, Grid<1> grid, address out, RandomState state, f64 a, f64 b, f64 c);
// `bernoulli` of all: a = 0, b = threshold. `integers` of all: a = low, b = high - low.
FAMILY(draw, Grid<1> grid, address out, RandomState state, u64 a, u64 b);

// The numbers that a block yields: four, or two of 64 bits.
template <typename T>
struct Uniform {
    static constexpr int count = 4;
    static __device__ f32 fraction(const Block& block, int i) {
        // As many bits of a draw as the significand holds.
        constexpr int bits = Element<T>::significand;
        return (f32)(block.words[i] >> (32 - bits)) * (f32)(1.0 / (1u << bits));
    }
};
template <>
struct Uniform<f64> {
    static constexpr int count = 2;
    static __device__ f64 fraction(const Block& block, int i) {
        return (f64)(int64_t)(wide_word(block, i) >> 11) * (1.0 / (f64)(1ull << 53));
    }
};

#define UNIFORM(name, T)                                                                                        \
    KERNEL random_uniform_##name(BY_VALUE Grid<1> grid, T* out, BY_VALUE RandomState given, f64 low, f64 width, \
                                 f64 last) {                                                                    \
        typedef Compute<T> R;                                                                                   \
        constexpr int count = Uniform<T>::count;                                                                \
        RandomState state = absolute(given);                                                                    \
        for (uint64_t b = thread_index(); b * count < grid.numel; b += thread_count()) {                        \
            Block block = philox(state, b);                                                                     \
            _Pragma("unroll") for (int i = 0; i < count; ++i) {                                                 \
                if (b * count + i >= grid.numel) break;                                                         \
                R value = (R)low + Uniform<T>::fraction(block, i) * (R)width;                                   \
                value = value > (R)last ? (R)last : value;                                                      \
                out[locate(grid, b * count + i).at[0]] = store<T>(value);                                       \
            }                                                                                                   \
        }                                                                                                       \
    }
FOR_FLOAT(UNIFORM)

#define NORMAL(name, T)                                                                                         \
    KERNEL random_normal_##name(BY_VALUE Grid<1> grid, T* out, BY_VALUE RandomState given, f64 mean, f64 std,   \
                                f64) {                                                                          \
        typedef Compute<T> R;                                                                                   \
        constexpr int pairs = BoxMuller<R>::pairs;                                                              \
        RandomState state = absolute(given);                                                                    \
        for (uint64_t b = thread_index(); b * (2 * pairs) < grid.numel; b += thread_count()) {                  \
            Block block = philox(state, b);                                                                     \
            _Pragma("unroll") for (int i = 0; i < pairs; ++i) {                                                 \
                R both[2];                                                                                      \
                normal_pair<R>(block, i, both);                                                                 \
                _Pragma("unroll") for (int k = 0; k < 2; ++k) {                                                 \
                    uint64_t n = b * (2 * pairs) + 2 * i + k;                                                   \
                    if (n < grid.numel) out[locate(grid, n).at[0]] = store<T>((R)mean + (R)std * both[k]);      \
                }                                                                                               \
            }                                                                                                   \
        }                                                                                                       \
    }
FOR_FLOAT(NORMAL)

// 1 if the word is below the threshold.
#define BERNOULLI(name, T)                                                                                      \
    KERNEL draw_bernoulli_##name(BY_VALUE Grid<1> grid, T* out, BY_VALUE RandomState given, uint64_t,           \
                                 uint64_t threshold) {                                                          \
        RandomState state = absolute(given);                                                                    \
        for (uint64_t b = thread_index(); b * 4 < grid.numel; b += thread_count()) {                            \
            Block block = philox(state, b);                                                                     \
            _Pragma("unroll") for (int i = 0; i < 4; ++i) {                                                     \
                if (b * 4 + i >= grid.numel) break;                                                             \
                u8 value = block.words[i] < threshold;                                                          \
                out[locate(grid, b * 4 + i).at[0]] = store<T>(convert<T>(value));                               \
            }                                                                                                   \
        }                                                                                                       \
    }
FOR_ALL(BERNOULLI)

// The upper 64 bits of a product.
__device__ inline uint64_t high_product(uint64_t a, uint64_t b) {
    uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
    uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
    uint64_t other = a0 * b1 + (uint32_t)middle;
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

// low + (draw * count) / 2^64
#define INTEGERS(name, T)                                                                                       \
    KERNEL draw_integers_##name(BY_VALUE Grid<1> grid, T* out, BY_VALUE RandomState given, uint64_t low,        \
                                uint64_t count) {                                                               \
        RandomState state = absolute(given);                                                                    \
        for (uint64_t b = thread_index(); b * 2 < grid.numel; b += thread_count()) {                            \
            Block block = philox(state, b);                                                                     \
            _Pragma("unroll") for (int i = 0; i < 2; ++i) {                                                     \
                if (b * 2 + i >= grid.numel) break;                                                             \
                int64_t value = (int64_t)(low + high_product(wide_word(block, i), count));                      \
                out[locate(grid, b * 2 + i).at[0]] = store<T>(convert<T>(value));                               \
            }                                                                                                   \
        }                                                                                                       \
    }
FOR_ALL(INTEGERS)
