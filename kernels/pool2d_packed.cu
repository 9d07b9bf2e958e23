// Max pooling with windows of 2×2 or 3×3 pixels and stride 2, and the gradient of the average of planes, for dense
// images: 16 bytes at a time, of adjacent channels (`pixels`, for channels-last images) or along rows (`rows16`; for
// rows that are not multiples of 16 bytes, `rows8` and `rows4`). pool2d.cu has the general case.
#include "map.cuh"

// `pixels rows16 rows8 rows4`, each `_2` or `_3`, of f32 f16 bf16 (`rows4` not of f32). `taps` (u8) may be null.
FAMILY(max_pool_packed, PackedPool pool, address x, address out, address taps);
// As above.
FAMILY(max_pool_packed_grad, PackedPool pool, address grad, address taps, address out);
// `pixels planes` of f32 f16 bf16.
FAMILY(mean_packed_grad, PackedMean mean, address grad, address out);

// The position of a pack: its index in its pixel, column, row and image; or (without columns) its index in its row, 0,
// row and plane.
struct PackAt {
    int pack, column, row, image;
};

template <bool Columns>
__device__ inline PackAt pack_at(const PackedPool& p, uint32_t i) {
    int number[3] = {0, 0, 0};
    uint32_t rest = i;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
        if (d == 1 && !Columns) continue;
        uint32_t next = (uint32_t)divide(rest, p.dims[d], false);
        number[d] = (int)(rest - next * (uint32_t)p.dims[d].extent);
        rest = next;
    }
    return PackAt{number[0], number[1], number[2], (int)rest};
}

// A 0 that ptxas cannot know. If it knew the tap numbers, it would select them at the end, and keep the comparisons of
// all taps until then: half as many instructions again.
__device__ inline uint32_t unknown_zero(uint32_t pack) { return pack >> 31; }

__device__ inline bool below(int i, int n) { return (uint32_t)i < (uint32_t)n; }

template <typename T, int V>
__device__ inline Pack<T, V> all_of(T value) {
    Pack<T, V> pack;
#pragma unroll
    for (int v = 0; v < V; ++v) pack.elements[v] = value;
    return pack;
}

// The maxima so far of V windows, and their taps: of equal elements the first, of NaNs the last.
template <typename T, int V>
struct Largest {
    Compute<T> best[V];
    uint32_t tap[V];

    // `tap` is the first one inside the image.
    __device__ void start(uint32_t first) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            best[v] = -(Compute<T>)INFINITY;
            tap[v] = first;
        }
    }

    __device__ void see(int v, Compute<T> value, uint32_t number) {
        bool larger = value > best[v] || value != value;
        best[v] = larger ? value : best[v];
        tap[v] = larger ? number : tap[v];
    }

    __device__ void write(T* out, uint8_t* taps, uint64_t at) const {
        Pack<T, V> values;
        Pack<uint8_t, V> numbers;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            values.elements[v] = store<T>(best[v]);
            numbers.elements[v] = (uint8_t)tap[v];
        }
        write_pack(out + at, values);
        if (taps) write_pack(taps + at, numbers);
    }
};

template <typename T, int K>
__device__ inline void max_pool_pixels(const PackedPool& p, const T* x, T* out, uint8_t* taps) {
    constexpr int V = 16 / sizeof(T);
#pragma unroll 1
    for (uint32_t i = (uint32_t)thread_index(); i < p.packs; i += (uint32_t)thread_count()) {
        PackAt at = pack_at<true>(p, i);
        int y = 2 * at.row - p.padding[0], column = 2 * at.column - p.padding[1];
        // May point before the image: taps outside are not read.
        const T* from = x + (int64_t)((at.image * p.height + y) * p.width + column) * p.channels + at.pack * V;
        Pack<T, V> seen[K][K];
#pragma unroll
        for (int row = 0; row < K; ++row) {
            const T* line = from + (int64_t)(row * p.width) * p.channels;
#pragma unroll
            for (int k = 0; k < K; ++k) {
                bool inside = below(y + row, p.height) && below(column + k, p.width);
                seen[row][k] = inside ? read_pack<T, V>(line + (int64_t)k * p.channels)
                                      : all_of<T, V>(store<T>(-(Compute<T>)INFINITY));
            }
        }
        uint32_t zero = unknown_zero(i);
        Largest<T, V> largest;
        largest.start((uint32_t)((y < 0 ? -y : 0) * K + (column < 0 ? -column : 0)));
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int tap = 0; tap < K * K; ++tap) largest.see(v, load(seen[tap / K][tap % K].elements[v]), zero + tap);
        }
        largest.write(out, taps, (uint64_t)i * V);
    }
}

// Packs of `P` elements of input rows, the windows of half as many outputs. Windows of three columns have a padding of
// 1 and begin with the last element of the previous pack.
template <typename T, int K, int P>
__device__ inline void max_pool_rows(const PackedPool& p, const T* x, T* out, uint8_t* taps) {
    constexpr int V = P / 2;
    constexpr int BEFORE = K == 3;
#pragma unroll 1
    for (uint32_t i = (uint32_t)thread_index(); i < p.packs; i += (uint32_t)thread_count()) {
        PackAt at = pack_at<false>(p, i);
        int y = 2 * at.row - p.padding[0];
        const T* from = x + (int64_t)(at.image * p.height + y) * p.width + at.pack * P;
        T lowest = store<T>(-(Compute<T>)INFINITY), before[K];
        Pack<T, P> seen[K];
#pragma unroll
        for (int row = 0; row < K; ++row) {
            bool inside = below(y + row, p.height);
            const T* line = from + row * p.width;
            seen[row] = inside ? read_pack<T, P>(line) : all_of<T, P>(lowest);
            if (BEFORE) before[row] = inside && at.pack > 0 ? line[-1] : lowest;
        }
        uint32_t zero = unknown_zero(i);
        Largest<T, V> largest;
        largest.start((uint32_t)((y < 0 ? -y : 0) * K));
        if (BEFORE && at.pack == 0) ++largest.tap[0];
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int tap = 0; tap < K * K; ++tap) {
                int column = 2 * v + tap % K - BEFORE;
                T value = column < 0 ? before[tap / K] : seen[tap / K].elements[column < 0 ? 0 : column];
                largest.see(v, load(value), zero + tap);
            }
        }
        largest.write(out, taps, (uint64_t)i * V);
    }
}

// The contributions of V windows to one of their taps. (Windows outside have no tap.)
template <typename T, int V>
struct Given {
    Pack<T, V> grad;
    Pack<uint8_t, V> taps;

    __device__ static Given none() { return Given{all_of<T, V>(T{}), all_of<uint8_t, V>((uint8_t)255)}; }

    __device__ static Given read(const T* grad, const uint8_t* taps, int64_t at) {
        return Given{read_pack<T, V>(grad + at), read_pack<uint8_t, V>(taps + at)};
    }

    __device__ Compute<T> to(int v, int tap) const {
        return taps.elements[v] == tap ? load(grad.elements[v]) : Compute<T>(0);
    }
};

// The gradients of blocks of 2×2 pixels, which begin at windows. They receive from the window that begins there and,
// for K = 3, from those that begin two pixels before.
template <typename T, int K>
__device__ inline void max_pool_grad_pixels(const PackedPool& p, const T* grad, const uint8_t* taps, T* out) {
    constexpr int V = 16 / sizeof(T);
    constexpr int N = K - 1;
#pragma unroll 1
    for (uint32_t i = (uint32_t)thread_index(); i < p.packs; i += (uint32_t)thread_count()) {
        PackAt at = pack_at<true>(p, i);
        Given<T, V> given[N][N];
#pragma unroll
        for (int a = 0; a < N; ++a) {
#pragma unroll
            for (int b = 0; b < N; ++b) {
                int row = at.row - (N - 1) + a, column = at.column - (N - 1) + b;
                int pixel = (at.image * p.out_height + row) * p.out_width + column;
                bool inside = below(row, p.out_height) && below(column, p.out_width);
                given[a][b] = inside ? Given<T, V>::read(grad, taps, (int64_t)pixel * p.channels + at.pack * V)
                                     : Given<T, V>::none();
            }
        }
        int y = 2 * at.row - p.padding[0], x = 2 * at.column - p.padding[1];
        T* to = out + (int64_t)((at.image * p.height + y) * p.width + x) * p.channels + at.pack * V;
#pragma unroll
        for (int pixel = 0; pixel < 4; ++pixel) {
            int row = pixel / 2, column = pixel % 2;
            if (!below(y + row, p.height) || !below(x + column, p.width)) continue;
            Pack<T, V> sums;
#pragma unroll
            for (int v = 0; v < V; ++v) {
                Compute<T> sum = Compute<T>(0);
#pragma unroll
                for (int a = 0; a < N; ++a) {
#pragma unroll
                    for (int b = 0; b < N; ++b) {
                        // The position of the pixel in the window.
                        int down = row + 2 * (N - 1 - a), right = column + 2 * (N - 1 - b);
                        if (down < K && right < K) sum = sum + given[a][b].to(v, down * K + right);
                    }
                }
                sums.elements[v] = store<T>(sum);
            }
            write_pack(to + (int64_t)(row * p.width + column) * p.channels, sums);
        }
    }
}

// The gradients of P pixels in each of two rows. For K = 3 the first row and column of a block are the second of its
// window.
template <typename T, int K, int P>
__device__ inline void max_pool_grad_rows(const PackedPool& p, const T* grad, const uint8_t* taps, T* out) {
    constexpr int V = P / 2;
    constexpr int BEFORE = K == 3;
    constexpr int N = K - 1;
#pragma unroll 1
    for (uint32_t i = (uint32_t)thread_index(); i < p.packs; i += (uint32_t)thread_count()) {
        PackAt at = pack_at<false>(p, i);
        Given<T, V> given[N];
        Given<T, 1> after[N];
#pragma unroll
        for (int a = 0; a < N; ++a) {
            int64_t from = (int64_t)(at.image * p.out_height + at.row + a) * p.out_width + at.pack * V;
            bool inside = at.row + a < p.out_height, more = inside && BEFORE && (at.pack + 1) * V < p.out_width;
            given[a] = inside ? Given<T, V>::read(grad, taps, from) : Given<T, V>::none();
            after[a] = more ? Given<T, 1>::read(grad, taps, from + V) : Given<T, 1>::none();
        }
        int y = 2 * at.row;
        T* to = out + (int64_t)(at.image * p.height + y) * p.width + at.pack * P;
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            if (y + row >= p.height) continue;
            Pack<T, P> sums;
#pragma unroll
            for (int x = 0; x < P; ++x) {
                Compute<T> sum = Compute<T>(0);
#pragma unroll
                for (int a = 0; a < N; ++a) {
#pragma unroll
                    for (int b = 0; b < N; ++b) {
                        int down = row + BEFORE - 2 * a, right = x % 2 + BEFORE - 2 * b, v = x / 2 + b;
                        if (down < 0 || right < 0) continue;
                        int tap = down * K + right;
                        sum = sum + (v < V ? given[a].to(v < V ? v : 0, tap) : after[a].to(0, tap));
                    }
                }
                sums.elements[x] = store<T>(sum);
            }
            write_pack(to + row * p.width, sums);
        }
    }
}

// The contribution of a plane's average to each of its pixels.
template <typename T>
__device__ inline void mean_grad_pixels(const PackedMean& p, const T* grad, T* out) {
    constexpr int V = 16 / sizeof(T);
    typedef Compute<T> R;
    R size = (R)p.size;
#pragma unroll 1
    for (uint32_t i = (uint32_t)thread_index(); i < p.packs; i += (uint32_t)thread_count()) {
        // Packs per pixel, and pixels per image.
        uint32_t pixel = (uint32_t)divide(i, p.dims[0], false), image = (uint32_t)divide(pixel, p.dims[1], false);
        uint32_t pack = i - pixel * (uint32_t)p.dims[0].extent;
        Pack<T, V> of = read_pack<T, V>(grad + ((uint64_t)image * p.dims[0].extent + pack) * V);
#pragma unroll
        for (int v = 0; v < V; ++v) of.elements[v] = store<T>(load(of.elements[v]) / size);
        write_pack(out + (uint64_t)i * V, of);
    }
}

// A pack has pixels of one plane or of two adjacent ones.
template <typename T>
__device__ inline void mean_grad_planes(const PackedMean& p, const T* grad, T* out) {
    constexpr int V = 16 / sizeof(T);
    typedef Compute<T> R;
    R size = (R)p.size;
#pragma unroll 1
    for (uint32_t i = (uint32_t)thread_index(); i < p.packs; i += (uint32_t)thread_count()) {
        uint32_t first = i * V, plane = (uint32_t)divide(first, p.dims[0], false);
        // The number of remaining pixels of the plane.
        uint32_t left = (plane + 1) * (uint32_t)p.dims[0].extent - first;
        T share = store<T>(load(grad[plane]) / size), next = share;
        if (left < V) next = store<T>(load(grad[plane + 1]) / size);
        Pack<T, V> of;
#pragma unroll
        for (uint32_t v = 0; v < V; ++v) of.elements[v] = v < left ? share : next;
        write_pack(out + first, of);
    }
}

#define PACKED(op, K, name, T, body, ...)                                                                             \
    KERNEL max_pool_packed_##op##_##K##_##name(BY_VALUE PackedPool p, const T* x, T* out, uint8_t* taps) {            \
        max_pool_##body<T, K, ##__VA_ARGS__>(p, x, out, taps);                                                        \
    }                                                                                                                 \
    KERNEL max_pool_packed_grad_##op##_##K##_##name(BY_VALUE PackedPool p, const T* grad, const uint8_t* taps,        \
                                                    T* out) {                                                         \
        max_pool_grad_##body<T, K, ##__VA_ARGS__>(p, grad, taps, out);                                                \
    }
#define PACKED_OF(name, T)                                                                                            \
    PACKED(pixels, 2, name, T, pixels)                                                                                \
    PACKED(pixels, 3, name, T, pixels)                                                                                \
    PACKED(rows16, 2, name, T, rows, 16 / sizeof(T))                                                                  \
    PACKED(rows16, 3, name, T, rows, 16 / sizeof(T))                                                                  \
    PACKED(rows8, 2, name, T, rows, 8 / sizeof(T))                                                                    \
    PACKED(rows8, 3, name, T, rows, 8 / sizeof(T))                                                                    \
    KERNEL mean_packed_grad_pixels_##name(BY_VALUE PackedMean p, const T* grad, T* out) {                             \
        mean_grad_pixels<T>(p, grad, out);                                                                            \
    }                                                                                                                 \
    KERNEL mean_packed_grad_planes_##name(BY_VALUE PackedMean p, const T* grad, T* out) {                             \
        mean_grad_planes<T>(p, grad, out);                                                                            \
    }
PACKED_OF(f32, f32)
FOR_HALF(PACKED_OF)
#define PACKED_OF_4(name, T)             \
    PACKED(rows4, 2, name, T, rows, 2)   \
    PACKED(rows4, 3, name, T, rows, 2)
FOR_HALF(PACKED_OF_4)
