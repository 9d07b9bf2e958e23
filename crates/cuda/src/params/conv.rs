//! The parameters of the convolution kernels: how results and terms are numbered.

use kiln_backend::{Conv2d, Layout};

use super::{Dim, Lanes, grid::blocks};

by_value! {
    /// A convolution or one of its gradients.
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
}

fn extents(layout: &Layout) -> [usize; 4] {
    std::array::from_fn(|dim| layout.dims().get(dim).map_or(1, |&extent| extent))
}

fn strides(layout: &Layout) -> [i64; 4] {
    std::array::from_fn(|dim| layout.strides().get(dim).map_or(0, |&stride| stride as i64))
}

impl Convolution {
    /// The convolution, checked by its contract, that sums products of `a` and `b` over `terms` (outermost first) into
    /// `out`, where these are in some order the input images `x`, the filter `w` and the output images `y`.
    #[must_use]
    pub fn new(rule: &Conv2d, [x, w, y]: [&Layout; 3], [a, b, out]: [&Layout; 3], terms: [usize; 3]) -> Convolution {
        let dim = |extent: usize| Dim::new(extent.max(1) as u64);
        let pair = |pair: [usize; 2]| pair.map(|value| value as i64);
        let ([_, _, h, wide], [o, group_in, ..], [_, _, oh, ow]) = (extents(x), extents(w), extents(y));
        let [_, c, rows, columns] = extents(out);
        let (numel, count) = (out.numel() as u64, terms.iter().product::<usize>() as u64);
        Convolution {
            numel,
            terms: count,
            lanes: Lanes::new(count, numel, false),
            result: [columns, rows, c].map(dim),
            term: [terms[2], terms[1]].map(dim),
            group_in: dim(group_in),
            group_out: dim(o / rule.groups.max(1)),
            stride: rule.stride.map(dim),
            padding: pair(rule.padding),
            dilation: pair(rule.dilation),
            size: pair([h, wide]),
            out_size: pair([oh, ow]),
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
