// The structs that kernels take by value: shapes, strides and launch plans. crates/cuda/src/params.rs mirrors them and
// asserts every size and offset.
//
// Nothing here is ever uploaded: a launch copies its parameters, so shapes need no memory and no copy of their own.
#pragma once
#include <stdint.h>

constexpr int MAX_DIMS = 8;

// A divisor: `n / extent` is `(high(n * multiplier) + n) >> shift`, where `high` is the upper half of the product; in
// 32 bits for n below 2^31, and with `wide` in 64 bits for n below 2^63. GPUs have no integer division instruction, and
// the 64-bit division is a call that spills registers.
struct Dim {
    uint64_t extent;
    uint64_t wide;
    uint32_t multiplier;
    uint32_t shift;
};

// Positions are numbered with 64 bits; without this flag there are fewer than 2^31.
constexpr uint32_t WIDE = 1;
// There is one dimension, every operand present has stride 1, and every pointer is a multiple of 16 bytes.
constexpr uint32_t VECTOR = 2;

// The positions of a tensor of `rank` dimensions (at least 1), numbered in row-major order, and their offsets in each
// of N operands: strides in elements, in the order of the kernel's pointers.
template <int N>
struct Grid {
    uint64_t numel;
    uint32_t rank;
    uint32_t flags;
    Dim dims[MAX_DIMS];
    int64_t strides[N][MAX_DIMS];
};

// How many threads share a line of elements, and which threads those are.
struct Lanes {
    // A line has 2^log2 threads; a block has 256.
    uint32_t log2;
    // 0: neighboring threads take neighboring elements of a line; 1: they take neighboring lines.
    uint32_t across;
};

// Lines of n elements along one dimension: the grid numbers the lines.
template <int N>
struct Lines {
    Grid<N> lines;
    uint64_t n;
    int64_t strides[N];
    Lanes lanes;
};

// A reduction: `outer` numbers the results (operands: x, the result, a second result), `inner` the elements of one.
struct Reduce {
    Grid<3> outer;
    Grid<1> inner;
    // Number of results.
    Dim results;
    // Elements of a result that one team of lanes takes, and the number of teams per result.
    uint64_t chunk;
    uint64_t splits;
    Lanes lanes;
    // REDUCE_WHOLE: x to results; REDUCE_FIRST: x to `splits` partial results each; REDUCE_SECOND: these to results.
    uint32_t stage;
    uint32_t unused;
    // Bessel's correction, for the variance.
    double correction;
};

constexpr uint32_t REDUCE_WHOLE = 0;
constexpr uint32_t REDUCE_FIRST = 1;
constexpr uint32_t REDUCE_SECOND = 2;

// The state of the random generator, in device memory, so that a step's launches are the same each time. The last
// launch of an optimizer's step advances it.
struct GeneratorState {
    // The position to draw from: the key, and a counter block.
    uint64_t seed;
    uint64_t offset;
    // How many blocks of a launch have read what its last block will change; 0 between launches.
    uint32_t arrived;
    uint32_t unused;
};

// A position in the Philox stream: `offset` blocks after `base`'s position; if `base` is null, `seed` and `offset`
// themselves.
struct RandomState {
    uint64_t seed;
    uint64_t offset;
    const GeneratorState* base;
};

// Matrices of `rows` by `columns`; `upper` keeps the elements on or above the diagonal, else those on or below it.
struct Triangle {
    uint64_t rows;
    uint64_t columns;
    int64_t diagonal;
    uint32_t upper;
    uint32_t unused;
};

// Lines along `dim` for scatter: operands are index, x, out. Teams of `parts` threads (a power of two) share a
// line; part p takes the indices that are p modulo `parts`.
struct Scatter {
    Grid<3> lines;
    uint64_t n;
    int64_t strides[3];
    // Extent of out along dim.
    uint64_t size;
    uint64_t parts;
};

// Gather: the grid's operands are index, out, x; x's stride along dim is 0 in the grid and is given here.
struct Gather {
    Grid<3> grid;
    uint64_t size;
    int64_t stride;
};

// Search: the grid's operands are the sorted sequence (last dimension of stride 0), values, out.
struct Search {
    Grid<3> grid;
    uint64_t n;
    int64_t stride;
    // 0: counts the elements less than the value; 1: less or equal.
    uint32_t right;
    uint32_t unused;
};

// Sorting: operands are x, values, indices.
struct Sort {
    Grid<3> lines;
    uint64_t n;
    int64_t strides[3];
    uint32_t descending;
    uint32_t unused;
};

// A product of matrices: the batch's operands are a, b, out.
struct Matmul {
    Grid<3> batch;
    uint64_t m, n, k;
    int64_t a[2], b[2], out[2];
};

// A tensor as groups of equally many elements: the channels of images, or the rows or columns of a matrix. Teams of
// threads reduce each group, in one stage or two as in `Reduce`.
struct Groups {
    // Numbers the elements of a group; operands: x, the result, the incoming gradient.
    Grid<3> inner;
    Dim count;
    // Strides from one group to the next, for each operand.
    int64_t strides[3];
    // Elements of a group that one team takes, and the number of teams per group.
    uint64_t chunk;
    uint64_t splits;
    Lanes lanes;
    // REDUCE_WHOLE, REDUCE_FIRST, REDUCE_SECOND, or GROUPS_GIVEN: there is nothing to reduce.
    uint32_t stage;
    uint32_t unused;
};

constexpr uint32_t GROUPS_GIVEN = 3;

// Groups of elements of dense tensors with equal strides, in packs of 16 bytes. Along memory, a group consists of runs of
// adjacent elements (the pixels of a channel in each image). Across memory, a pack has one element of each of several adjacent
// groups, which count as one group here.
struct PackedGroups {
    Dim count;
    // Packs in a run; across memory there is a single run.
    Dim run;
    // Distance in elements between groups, and between runs.
    int64_t group_stride, run_stride;
    // Distance in elements between packs.
    uint32_t step;
    // Packs per group, packs per team, teams per group.
    uint32_t packs, chunk, splits;
    Lanes lanes;
    uint32_t stage;
    uint32_t unused;
};

// Scale and shift are indexed by the element's position in its group, not by group.
constexpr uint32_t NORM_AFFINE_INSIDE = 1;
// The statistics are indexed by the element's position in its group (and the groups are the columns of layer_norm).
constexpr uint32_t NORM_STATS_INSIDE = 2;
// The statistics are constants.
constexpr uint32_t NORM_CONSTANT = 4;
// Forward: ReLU comes last. Backward: what it let through is recomputed from the input.
constexpr uint32_t NORM_RELU = 8;
// The running statistics have the dtype of the images, not of what is computed in.
constexpr uint32_t NORM_RUNNING_STORED = 16;
// Scale, shift and their gradients are in the type that half precision is computed in (batch normalization).
constexpr uint32_t NORM_WIDE = 32;

// A normalization, or its gradient.
struct Norm {
    Groups groups;
    // Strides of the weight, bias, mean, inv_std (or var), running mean, running variance and shift; backward, of the weight,
    // the bias's gradient, mean, inv_std, the weight's gradient, the shift's gradient and the bias.
    int64_t vectors[7];
    double eps, momentum;
    uint32_t flags;
    uint32_t unused;
};

// The same in packs of elements. Vectors indexed inside a group are dense and begin at a multiple of 16 bytes.
struct PackedNorm {
    PackedGroups groups;
    int64_t vectors[7];
    double eps, momentum;
    uint32_t flags;
    uint32_t unused;
};

// One axis of a pooling: window o has its taps at `o * stride - padding + i * dilation` for i < kernel; taps outside
// the input are skipped. Windows with kernel 0 are adaptive: they begin at `floor(o * input / output)` and end at
// `ceil((o + 1) * input / output)`.
struct PoolAxis {
    Dim input, output;
    Dim stride, dilation;
    int64_t kernel, padding;
};

constexpr uint32_t POOL_CHANNELS_LAST = 2;
// Some number along an axis may be 2^31 or more.
constexpr uint32_t POOL_WIDE_WINDOWS = 4;
// Positions of maxima are tap numbers in their windows (u8), not positions in the plane (i64).
constexpr uint32_t POOL_TAPS = 8;
constexpr uint32_t POOL_WITH_PADDING = 0;
constexpr uint32_t POOL_INSIDE = 1;
constexpr uint32_t POOL_FIXED = 2;

// A pooling of images [N, C, H, W], forward or backward; positions are numbered in the result.
struct Pool {
    uint64_t numel;
    // WIDE; POOL_CHANNELS_LAST: numbered as [N, H, W, C]; POOL_WIDE_WINDOWS; POOL_TAPS.
    uint32_t flags;
    // The divisor of an average, one of the constants above.
    uint32_t divisor;
    // The last three extents in memory order, innermost first.
    Dim dims[3];
    // Height and width.
    PoolAxis axes[2];
    // Strides of the input or its gradient, of the output or its gradient, and of the positions of maxima.
    int64_t input[4], output[4], indices[4];
    int64_t fixed;
};

// Max pooling of dense images with windows of 2×2 or 3×3 pixels and stride 2, forward and backward, in packs of elements.
struct PackedPool {
    // Forward, the packs of the output. Backward, the packs of the gradient divided by 2 rows (channels last: by 2×2 pixels),
    // which one thread computes together.
    uint32_t packs;
    // Distance in elements between pixels.
    uint32_t channels;
    // The extents by which packs are numbered, the innermost first. Channels last: packs per pixel, columns, rows; otherwise
    // packs per row, 1, rows.
    Dim dims[3];
    int32_t height, width, out_height, out_width;
    int32_t padding[2];
};

// Packs of a row that a thread holds in registers.
constexpr int ROW_PACKS = 4;

// Rows without gaps, each of which a team of threads holds in registers: `packs` packs of 16 bytes, at most ROW_PACKS per thread.
struct PackedRows {
    uint32_t count;
    uint32_t packs;
    // Distance in elements between rows, of each operand.
    int64_t strides[3];
    Lanes lanes;
};

// The gradient of the mean of each plane of dense images, in packs of elements.
struct PackedMean {
    uint32_t packs;
    // Pixels per plane.
    uint32_t size;
    // Channels last: packs per pixel, pixels per plane; otherwise pixels per plane, 1.
    Dim dims[2];
};

// A convolution of images [N, C, H, W] (N = 2) or volumes [N, C, D, H, W] (N = 3) by a filter, or one of its gradients: a
// result is a sum of products of a and b.
template <int N>
struct ConvolutionOf {
    static constexpr int AXES = N;
    // Results, and terms of each.
    uint64_t numel, terms;
    // Threads for a result.
    Lanes lanes;
    // The last extents of the result, all but one, and those of what is summed over, innermost first.
    Dim result[N + 1], term[N];
    // Channels of a group.
    Dim group_in, group_out;
    // Of each axis, the outermost first.
    Dim stride[N];
    int64_t padding[N], dilation[N];
    // Sizes of the images or volumes that go in and come out.
    int64_t size[N], out_size[N];
    // Strides.
    int64_t a[N + 2], b[N + 2], out[N + 2];
};
typedef ConvolutionOf<2> Convolution;
typedef ConvolutionOf<3> VolumeConvolution;

constexpr uint32_t REDUCTION_NONE = 0;
constexpr uint32_t REDUCTION_MEAN = 1;
constexpr uint32_t REDUCTION_SUM = 2;

// The class losses. Strides are those of [N, C, S], of [N, S] for labels (the middle one is unused), of rows, and of
// the gradient of the loss.
struct ClassLoss {
    uint64_t samples, classes;
    Dim positions;
    int64_t x[3], target[3], out[3];
    int64_t loss[2], lse[2];
    int64_t weight;
    int64_t ignore_index;
    // The shares of the target that smoothing leaves to the label and gives to every class; 1 and 0 without smoothing.
    double kept, share;
    // 1: x holds logits; 0: log-probabilities.
    uint32_t logits;
    uint32_t reduction;
    Lanes lanes;
    // 1: x is in half precision, and the loss and its gradient in f32.
    uint32_t wide;
    uint32_t unused;
};

// Reduces the partial sums of a loss (pairs of the loss and the divisor of the mean) to the result.
struct LossFinish {
    uint64_t blocks;
    // The divisor of the mean; 0 to divide by the sum of the weights.
    double count;
    uint32_t reduction;
    // Whether the loss is in f32 although the scores are in half precision.
    uint32_t wide;
};

// One parameter of an optimizer step.
struct OptimSlot {
    void* param;
    const void* grad;
    void* states[3];
    // The step count.
    unsigned long long* count;
    // The slot's first block, of OPTIM_BLOCK elements each; the next slot's first block ends it. And the number of
    // elements in its last block, with the OPTIM_SLOT flags.
    uint32_t first_block;
    uint32_t tail;
};

// All addresses of a slot are multiples of 16 bytes.
constexpr uint32_t OPTIM_SLOT_PACKED = 1u << 31;
// The state behind the last one of the rule receives the parameter rounded to half precision.
constexpr uint32_t OPTIM_SLOT_LOW_F16 = 1u << 30;
constexpr uint32_t OPTIM_SLOT_LOW_BF16 = 1u << 29;
// In a launch for gradients in half precision, the gradient is of the parameter's type.
constexpr uint32_t OPTIM_SLOT_OWN_GRAD = 1u << 28;
constexpr uint32_t OPTIM_SLOT_TAIL = OPTIM_SLOT_OWN_GRAD - 1;

constexpr int OPTIM_SLOTS = 71;
constexpr uint32_t OPTIM_BLOCK = 4096;
constexpr uint32_t OPTIM_MAXIMIZE = 1;
constexpr uint32_t OPTIM_NESTEROV = 2;
constexpr uint32_t OPTIM_MOMENTUM = 4;
constexpr uint32_t OPTIM_AMSGRAD = 8;
constexpr uint32_t OPTIM_CENTERED = 16;
// The number of states in use is in the flags, too, from this bit on.
constexpr uint32_t OPTIM_STATES = 8;

// A step of up to OPTIM_SLOTS parameters in one launch. The pointers are passed by value: gradients have new addresses
// in every step, so a table in device memory would have to be uploaded each time. All drivers accept 4 KiB of
// parameters. The step counts, which change from step to step, are in device memory, as is the learning rate.
struct Optim {
    const double* lr;
    GeneratorState* progress;
    // What gradients are divided by, and whether the step is skipped (unless it is 0); either may be null.
    const float* scale;
    const float* found_inf;
    // Counter blocks that were drawn in the step.
    uint64_t drawn;
    double scalars[6];
    uint32_t flags;
    uint32_t slots;
    uint32_t blocks;
    uint32_t unused;
    OptimSlot slot[OPTIM_SLOTS];
};

// A gradient for a gradient scaler to look at, numbered in blocks as the parameters of `Optim`.
struct UnscaleSlot {
    void* grad;
    uint32_t first_block;
    // Elements of the last block, with OPTIM_SLOT_PACKED.
    uint32_t tail;
};

constexpr int UNSCALE_SLOTS = 254;

struct Unscale {
    // Null: gradients are only looked at.
    const float* scale;
    // Receives 1 if one is infinite or NaN.
    float* found_inf;
    uint32_t slots;
    uint32_t blocks;
    UnscaleSlot slot[UNSCALE_SLOTS];
};

// What a kernel reports when it meets an invalid value in memory. The first report is kept.
struct Status {
    // 0: no error; else one of the codes below.
    uint32_t code;
    uint32_t unused;
    int64_t value;
    int64_t bound;
};

constexpr uint32_t STATUS_INDEX = 1;     // an index outside 0..bound (gather, index_select)
constexpr uint32_t STATUS_SCATTER = 2;   // an index outside 0..bound (scatter, index_add)
constexpr uint32_t STATUS_CLASS = 3;     // a class outside 0..bound
constexpr uint32_t STATUS_EXPONENT = 4;  // an integer to a negative power
constexpr uint32_t STATUS_DIVISOR = 5;   // an integer divided by 0
