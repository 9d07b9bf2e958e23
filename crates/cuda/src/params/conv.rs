//! The parameters of the convolution kernels: how results and terms are numbered.

use kiln_backend::Layout;

use super::{Dim, Lanes, grid::blocks};

by_value! {
    /// A convolution of images or one of its gradients.
    Convolution: 400 => {
        /// Number of results.
        numel: u64 = 0,
        /// Products that are summed for each of them.
        terms: u64 = 8,
        /// Threads per result.
        lanes: Lanes = 16,
        /// The last three extents of the result, innermost first.
        result: [Dim; 3] = 24,
        /// The last two extents of what is summed over, innermost first.
        term: [Dim; 2] = 96,
        /// Input channels of a group.
        group_in: Dim = 144,
        /// Output channels of a group.
        group_out: Dim = 168,
        /// Stride, height first.
        stride: [Dim; 2] = 192,
        /// Padding.
        padding: [i64; 2] = 240,
        /// Dilation.
        dilation: [i64; 2] = 256,
        /// Size of the input images.
        size: [i64; 2] = 272,
        /// Size of the output images.
        out_size: [i64; 2] = 288,
        /// Strides of the first operand.
        a: [i64; 4] = 304,
        /// Strides of the second operand.
        b: [i64; 4] = 336,
        /// Strides of the result.
        out: [i64; 4] = 368,
    }
    /// A convolution of volumes or one of its gradients. Depth comes before height.
    VolumeConvolution: 528 => {
        /// Number of results.
        numel: u64 = 0,
        /// Products that are summed for each of them.
        terms: u64 = 8,
        /// Threads per result.
        lanes: Lanes = 16,
        /// The last four extents of the result, innermost first.
        result: [Dim; 4] = 24,
        /// The last three extents of what is summed over, innermost first.
        term: [Dim; 3] = 120,
        /// Input channels of a group.
        group_in: Dim = 192,
        /// Output channels of a group.
        group_out: Dim = 216,
        /// Stride.
        stride: [Dim; 3] = 240,
        /// Padding.
        padding: [i64; 3] = 312,
        /// Dilation.
        dilation: [i64; 3] = 336,
        /// Size of the input volumes.
        size: [i64; 3] = 360,
        /// Size of the output volumes.
        out_size: [i64; 3] = 384,
        /// Strides of the first operand.
        a: [i64; 5] = 408,
        /// Strides of the second operand.
        b: [i64; 5] = 448,
        /// Strides of the result.
        out: [i64; 5] = 488,
    }
}

fn extent(layout: &Layout, dim: usize) -> usize {
    layout.dims().get(dim).map_or(1, |&extent| extent)
}

fn strides<const R: usize>(layout: &Layout) -> [i64; R] {
    std::array::from_fn(|dim| layout.strides().get(dim).map_or(0, |&stride| stride as i64))
}

fn sizes<const A: usize>(layout: &Layout) -> [i64; A] {
    std::array::from_fn(|axis| extent(layout, axis + 2) as i64)
}

/// The last extents, innermost first.
fn innermost<const N: usize>(extents: &[usize]) -> [Dim; N] {
    std::array::from_fn(|i| Dim::new(extents.iter().rev().nth(i).map_or(1, |&extent| extent.max(1) as u64)))
}

macro_rules! convolution {
    ($($name:ident $axes:literal)*) => {$(
        impl $name {
            /// The convolution, checked by its contract, that sums products of `a` and `b` over `terms` (outermost first)
            /// into `out`, where these are in some order the layer's input `x`, the filter `w` and the output `y`.
            #[must_use]
            pub fn new(
                rule: &kiln_backend::Convolution<$axes>,
                [x, w, y]: [&Layout; 3],
                [a, b, out]: [&Layout; 3],
                terms: &[usize],
            ) -> $name {
                let (numel, count) = (out.numel() as u64, terms.iter().product::<usize>() as u64);
                let dim = |extent: usize| Dim::new(extent.max(1) as u64);
                $name {
                    numel,
                    terms: count,
                    lanes: Lanes::new(count, numel, false),
                    result: innermost(out.dims()),
                    term: innermost(terms),
                    group_in: dim(extent(w, 1)),
                    group_out: dim(extent(w, 0) / rule.groups.max(1)),
                    stride: rule.stride.map(dim),
                    padding: rule.padding.map(|value| value as i64),
                    dilation: rule.dilation.map(|value| value as i64),
                    size: sizes(x),
                    out_size: sizes(y),
                    a: strides(a),
                    b: strides(b),
                    out: strides(out),
                }
            }

            /// Blocks for the kernel.
            #[must_use]
            pub fn blocks(&self) -> u32 {
                blocks(self.numel.saturating_mul(self.lanes.count()))
            }
        }
    )*};
}

convolution! { Convolution 2 VolumeConvolution 3 }
