//! The grid of positions that an indexing operation walks over.

use crate::engine::iter::Walk;

/// Positions of the operands in the arrays of a [`Grid`].
pub(super) const INDEX: usize = 0;
pub(super) const NEAR: usize = 1;
pub(super) const FAR: usize = 2;

/// A grid in three parts: the indexed dimension; the dimensions after it that one stride per operand can span
/// (*columns*, the innermost loop); and all others (*outer*).
pub(super) struct Grid {
    outer: [Walk; 3],
    /// The extent along the indexed dimension.
    pub(super) len: usize,
    pub(super) dim_strides: [isize; 3],
    /// The number of columns.
    pub(super) inner: usize,
    pub(super) inner_strides: [isize; 3],
}

impl Grid {
    /// The grid of extents `dims` with the operands' strides.
    pub(super) fn new(dims: &[usize], dim: usize, strides: [&[isize]; 3]) -> Grid {
        let at = |d: usize| strides.map(|s| s[d]);
        let (mut inner, mut inner_strides, mut split) = (1, [1; 3], dims.len());
        for d in (dim + 1..dims.len()).rev() {
            let merges = inner == 1 || (0..3).all(|k| at(d)[k] == inner_strides[k] * inner as isize);
            if dims[d] != 1 {
                if !merges {
                    break;
                }
                if inner == 1 {
                    inner_strides = at(d);
                }
                inner *= dims[d];
            }
            split = d;
        }
        let outer = strides.map(|s| Walk::of((0..split).filter(|&d| d != dim).map(|d| (dims[d], s[d]))));
        let (len, dim_strides) = if dims.is_empty() { (1, [0; 3]) } else { (dims[dim], at(dim)) };
        Grid { outer, len, dim_strides, inner, inner_strides }
    }

    pub(super) fn outer_len(&self) -> usize {
        self.outer[0].len()
    }

    pub(super) fn numel(&self) -> usize {
        self.outer_len() * self.len * self.inner
    }

    /// The offsets of column `column` at an outer position, with index 0.
    #[inline]
    pub(super) fn start(&self, outer: usize, column: usize) -> [isize; 3] {
        let [a, b, c] = &self.outer;
        let [sa, sb, sc] = self.inner_strides.map(|s| s * column as isize);
        [a.offset(outer) + sa, b.offset(outer) + sb, c.offset(outer) + sc]
    }
}
