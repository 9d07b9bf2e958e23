//! The structs that kernels take by value: mirrors of `kernels/params.cuh`, and how they are built from layouts.

/// Threads of a block, unless the kernels' README says otherwise.
pub const THREADS: u32 = 256;
/// Maximum number of dimensions of a grid.
pub const MAX_DIMS: usize = 8;
/// Maximum number of parameters in one launch of an optimizer step.
pub const OPTIM_SLOTS: usize = 71;
/// As many gradients as one launch unscales.
pub const UNSCALE_SLOTS: usize = 254;
/// Elements of a parameter that one block updates.
pub const OPTIM_BLOCK: u64 = 4096;
/// Elements of a tile of `sort_tile`.
pub const SORT_TILE: u64 = 1024;

/// Declares a struct that a kernel takes by value, and checks its size and the offsets of its fields.
macro_rules! by_value {
    ($($(#[$meta:meta])* $name:ident$(<$N:ident>)?: $size:expr => {
        $($(#[$field_meta:meta])* $field:ident: $ty:ty = $offset:expr,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name$(<const $N: usize>)? {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        impl$(<const $N: usize>)? $name$(<$N>)? {
            /// Asserts that the fields have the same offsets in C++.
            pub(crate) const LAYOUT: () = {
                assert!(size_of::<Self>() == $size && align_of::<Self>() <= 8);
                $(assert!(std::mem::offset_of!(Self, $field) == $offset);)*
            };
        }

        by_value!(@check $name $($N)?);
    )*};
    (@check $name:ident) => {
        const _: () = $name::LAYOUT;
    };
    // Checked below, for the numbers of operands that there are.
    (@check $name:ident $N:ident) => {};
}

mod conv;
mod grid;
mod packed_groups;
mod packed_pool;
mod packed_rows;
mod plan;
mod pool;
mod step;

pub use self::{
    conv::{Convolution, VolumeConvolution},
    grid::{Place, blocks, limited_blocks, with_block_limit},
    packed_groups::PACK,
    packed_pool::{Images, PackedMean, PackedPool},
    pool::{Pool, PoolAxis},
    step::Addresses,
};

by_value! {
    /// A divisor, with the constants that replace the division by a multiplication.
    Dim: 24 => {
        /// The extent.
        extent: u64 = 0,
        /// The multiplier for numbers below 2^63.
        wide: u64 = 8,
        /// The multiplier for numbers below 2^31.
        multiplier: u32 = 16,
        /// The shift for both.
        shift: u32 = 20,
    }
    /// Positions numbered in row-major order, and their offsets in each of `N` operands.
    Grid<N>: 208 + 64 * N => {
        /// Number of positions.
        numel: u64 = 0,
        /// Number of dimensions, at least 1.
        rank: u32 = 8,
        /// [`Grid::WIDE`] and [`Grid::VECTOR`].
        flags: u32 = 12,
        /// The dimensions; those past the rank have extent 1.
        dims: [Dim; MAX_DIMS] = 16,
        /// For each operand, the strides in elements.
        strides: [[i64; MAX_DIMS]; N] = 208,
    }
    /// How many threads share a line of elements, and which threads those are.
    Lanes: 8 => {
        /// A line has `2^log2` threads.
        log2: u32 = 0,
        /// Whether neighboring threads work on neighboring lines (1) or within one line (0).
        across: u32 = 4,
    }
    /// Lines of elements along one dimension.
    Lines<N>: 208 + 64 * N + 8 + 8 * N + 8 => {
        /// Numbers the lines.
        lines: Grid<N> = 0,
        /// Elements per line.
        n: u64 = 208 + 64 * N,
        /// Strides along the line.
        strides: [i64; N] = 216 + 64 * N,
        /// Threads per line.
        lanes: Lanes = 216 + 72 * N,
    }
    /// A reduction.
    Reduce: 736 => {
        /// Numbers the results: operands `x`, the result, a second result.
        outer: Grid<3> = 0,
        /// Numbers the elements of one result.
        inner: Grid<1> = 400,
        /// Number of results.
        results: Dim = 672,
        /// Elements of a result that one team takes.
        chunk: u64 = 696,
        /// Teams per result.
        splits: u64 = 704,
        /// Threads per team.
        lanes: Lanes = 712,
        /// One of the constants `WHOLE`, `FIRST`, `SECOND`.
        stage: u32 = 720,
        /// Padding.
        unused: u32 = 724,
        /// Bessel's correction, for the variance.
        correction: f64 = 728,
    }
    /// The state of the random generator, in device memory, which advances from step to step.
    GeneratorState: 24 => {
        /// The key of the random numbers.
        seed: u64 = 0,
        /// The counter block from which positions are counted.
        offset: u64 = 8,
        /// Blocks of a launch that have reached its end.
        arrived: u32 = 16,
        /// Padding.
        unused: u32 = 20,
    }
    /// A position in the Philox stream.
    RandomState: 24 => {
        /// The key; unused if there is a base.
        seed: u64 = 0,
        /// The first counter block; with a base, the distance from the base's block.
        offset: u64 = 8,
        /// Null, or the address of a [`GeneratorState`].
        base: u64 = 16,
    }
    /// Which triangle of matrices is kept.
    Triangle: 32 => {
        /// Rows of a matrix.
        rows: u64 = 0,
        /// Columns of a matrix.
        columns: u64 = 8,
        /// The diagonal, 0 for the main one.
        diagonal: i64 = 16,
        /// Whether to keep the elements above the diagonal.
        upper: u32 = 24,
        /// Padding.
        unused: u32 = 28,
    }
    /// Scatter; operands `index`, `x`, `out`.
    Scatter: 448 => {
        /// Numbers the lines along the dimension.
        lines: Grid<3> = 0,
        /// Indices per line.
        n: u64 = 400,
        /// Strides along the dimension.
        strides: [i64; 3] = 408,
        /// The extent of `out` along the dimension.
        size: u64 = 432,
        /// Threads that share a line: a power of two.
        parts: u64 = 440,
    }
    /// Gather; operands `index`, `out`, `x`.
    Gather: 416 => {
        /// The output's positions; `x` has stride 0 along the dimension.
        grid: Grid<3> = 0,
        /// The extent of `x` along the dimension.
        size: u64 = 400,
        /// The stride of `x` along the dimension.
        stride: i64 = 408,
    }
    /// Search; operands: the sorted sequence, values, `out`.
    Search: 424 => {
        /// The output's positions; the sequence has stride 0 along the last dimension.
        grid: Grid<3> = 0,
        /// Length of the sequence.
        n: u64 = 400,
        /// The stride of the sequence.
        stride: i64 = 408,
        /// Whether equal elements are counted.
        right: u32 = 416,
        /// Padding.
        unused: u32 = 420,
    }
    /// A sort; operands `x`, values, indices.
    Sort: 440 => {
        /// Numbers the lines.
        lines: Grid<3> = 0,
        /// Elements per line.
        n: u64 = 400,
        /// Strides along a line.
        strides: [i64; 3] = 408,
        /// Whether to sort from the largest element to the smallest.
        descending: u32 = 432,
        /// Padding.
        unused: u32 = 436,
    }
    /// A product of integer matrices.
    Matmul: 472 => {
        /// The batch; operands `a`, `b`, `out`.
        batch: Grid<3> = 0,
        /// Rows of the product.
        m: u64 = 400,
        /// Columns of the product.
        n: u64 = 408,
        /// Columns of `a`, over which products are summed.
        k: u64 = 416,
        /// Strides of `a`: row, column.
        a: [i64; 2] = 424,
        /// Strides of `b`.
        b: [i64; 2] = 440,
        /// Strides of the product.
        out: [i64; 2] = 456,
    }
    /// Rows without gaps that teams of threads hold in registers.
    PackedRows: 40 => {
        /// How many rows there are.
        count: u32 = 0,
        /// Packs per row.
        packs: u32 = 4,
        /// Distance in elements between rows, of each operand.
        strides: [i64; 3] = 8,
        /// Threads per row.
        lanes: Lanes = 32,
    }
    /// A normalization, or its gradient, in packs of 16 bytes.
    PackedNorm: 176 => {
        /// What is normalized.
        groups: PackedGroups = 0,
        /// As in [`Norm`].
        vectors: [i64; 7] = 96,
        /// Added to variances.
        eps: f64 = 152,
        /// How far running statistics move.
        momentum: f64 = 160,
        /// The constants of [`Norm`].
        flags: u32 = 168,
        /// Padding.
        unused: u32 = 172,
    }
    /// A tensor as groups of elements; operands: `x`, the result, the incoming gradient.
    Groups: 480 => {
        /// Numbers the elements of a group.
        inner: Grid<3> = 0,
        /// Number of groups.
        count: Dim = 400,
        /// Strides from one group to the next.
        strides: [i64; 3] = 424,
        /// Elements of a group that one team takes.
        chunk: u64 = 448,
        /// Teams per group.
        splits: u64 = 456,
        /// Threads per team.
        lanes: Lanes = 464,
        /// One of the constants of [`Reduce`], or [`Groups::GIVEN`].
        stage: u32 = 472,
        /// Padding.
        unused: u32 = 476,
    }
    /// The groups of dense tensors with equal layouts, in packs of 16 bytes.
    PackedGroups: 96 => {
        /// The number of groups; across memory, as many groups as a pack has elements count as one.
        count: Dim = 0,
        /// Packs per run.
        run: Dim = 24,
        /// The distance between groups in elements.
        group_stride: i64 = 48,
        /// The distance between runs.
        run_stride: i64 = 56,
        /// The distance between packs.
        step: u32 = 64,
        /// Packs per group.
        packs: u32 = 68,
        /// Packs per team.
        chunk: u32 = 72,
        /// Teams per group.
        splits: u32 = 76,
        /// Threads per team.
        lanes: Lanes = 80,
        /// `WHOLE` or `FIRST` of [`Reduce`], or [`Groups::GIVEN`].
        stage: u32 = 88,
        /// Padding.
        unused: u32 = 92,
    }
    /// A normalization, or its gradient.
    Norm: 560 => {
        /// The groups that are normalized.
        groups: Groups = 0,
        /// Strides of the weight, bias, mean, `inv_std` or variance, running mean, running variance and shift; backward,
        /// of the weight, the bias's gradient, mean, `inv_std`, the weight's gradient, the shift's gradient and the bias.
        vectors: [i64; 7] = 480,
        /// The number added to variances.
        eps: f64 = 536,
        /// The weight of the new batch in the running statistics.
        momentum: f64 = 544,
        /// The constants of this type.
        flags: u32 = 552,
        /// Padding.
        unused: u32 = 556,
    }
    /// A class loss.
    ClassLoss: 200 => {
        /// N of `[N, C, S]`.
        samples: u64 = 0,
        /// C of `[N, C, S]`.
        classes: u64 = 8,
        /// S of `[N, C, S]`.
        positions: Dim = 16,
        /// Strides of the input.
        x: [i64; 3] = 40,
        /// Strides of the target; for labels the middle one is unused.
        target: [i64; 3] = 64,
        /// Strides of the input's gradient.
        out: [i64; 3] = 88,
        /// Strides of the per-row losses, or of their gradient; 0 for a scalar.
        loss: [i64; 2] = 112,
        /// Strides of the row statistics that are saved for the gradient.
        lse: [i64; 2] = 128,
        /// Stride of the weights.
        weight: i64 = 144,
        /// The label that is ignored.
        ignore_index: i64 = 152,
        /// The share of the target that label smoothing leaves to the label.
        kept: f64 = 160,
        /// The share of the target that every class gets.
        share: f64 = 168,
        /// Whether the input holds logits.
        logits: u32 = 176,
        /// The reduction: 0 none, 1 mean, 2 sum.
        reduction: u32 = 180,
        /// Threads per row.
        lanes: Lanes = 184,
        /// Whether the scores are in half precision, and the loss and its gradient in `f32`.
        wide: u32 = 192,
        /// Padding.
        unused: u32 = 196,
    }
    /// Reduces the partial sums of a loss to the result.
    LossFinish: 24 => {
        /// Number of partial sums.
        blocks: u64 = 0,
        /// The divisor of the mean; 0 to divide by the sum of the weights.
        count: f64 = 8,
        /// The reduction: 0 none, 1 mean, 2 sum.
        reduction: u32 = 16,
        /// Whether the loss is in `f32` although the scores are in half precision.
        wide: u32 = 20,
    }
    /// One parameter of an optimizer step.
    OptimSlot: 56 => {
        /// The parameter's address.
        param: u64 = 0,
        /// The gradient's address.
        grad: u64 = 8,
        /// The states' addresses.
        states: [u64; 3] = 16,
        /// The address of the step count.
        count: u64 = 40,
        /// The parameter's first block.
        first_block: u32 = 48,
        /// The number of elements in the parameter's last block, with flags.
        tail: u32 = 52,
    }
    /// An optimizer step of up to [`OPTIM_SLOTS`] parameters.
    Optim: 4080 => {
        /// The address of the learning rate.
        lr: u64 = 0,
        /// The address of the device's [`GeneratorState`].
        progress: u64 = 8,
        /// The address of the scale of gradients, or 0.
        scale: u64 = 16,
        /// The address of what tells to skip the step, or 0.
        found_inf: u64 = 24,
        /// Counter blocks of random numbers that were drawn in the step.
        drawn: u64 = 32,
        /// The rule's hyperparameters.
        scalars: [f64; 6] = 40,
        /// The rule's flags, and from bit 8 on the number of its states.
        flags: u32 = 88,
        /// Number of slots used.
        slots: u32 = 92,
        /// Number of blocks of all slots.
        blocks: u32 = 96,
        /// Padding.
        unused: u32 = 100,
        /// The parameters.
        slot: [OptimSlot; OPTIM_SLOTS] = 104,
    }
    /// A gradient to unscale.
    UnscaleSlot: 16 => {
        /// The gradient's address.
        grad: u64 = 0,
        /// Its first block.
        first_block: u32 = 8,
        /// The number of elements in its last block, with a flag.
        tail: u32 = 12,
    }
    /// Up to [`UNSCALE_SLOTS`] gradients to unscale.
    Unscale: 4088 => {
        /// The address of the scale; 0 to look only.
        scale: u64 = 0,
        /// The address of what tells that one is not finite.
        found_inf: u64 = 8,
        /// Number of slots used.
        slots: u32 = 16,
        /// Number of blocks of all slots.
        blocks: u32 = 20,
        /// The gradients.
        slot: [UnscaleSlot; UNSCALE_SLOTS] = 24,
    }
    /// What kernels report: the first value that was out of range.
    Status: 24 => {
        /// 0, or one of the constants of this type.
        code: u32 = 0,
        /// Padding.
        unused: u32 = 4,
        /// The offending value.
        value: i64 = 8,
        /// The exclusive bound of the value.
        bound: i64 = 16,
    }
}

impl Status {
    /// An index outside `0..bound`, of `gather` or `index_select`.
    pub const INDEX: u32 = 1;
    /// An index outside `0..bound`, of `scatter` or `index_add`.
    pub const SCATTER: u32 = 2;
    /// A class label outside `0..bound`.
    pub const CLASS: u32 = 3;
    /// An integer to a negative power.
    pub const EXPONENT: u32 = 4;
    /// An integer divided by 0.
    pub const DIVISOR: u32 = 5;
}

/// Checks the layouts of the structs that have a number of operands.
const _: () = {
    let _: [(); 7] = [
        Grid::<1>::LAYOUT,
        Grid::<2>::LAYOUT,
        Grid::<3>::LAYOUT,
        Grid::<4>::LAYOUT,
        Grid::<5>::LAYOUT,
        Grid::<6>::LAYOUT,
        Grid::<9>::LAYOUT,
    ];
    let _: [(); 3] = [Lines::<1>::LAYOUT, Lines::<2>::LAYOUT, Lines::<3>::LAYOUT];
};
