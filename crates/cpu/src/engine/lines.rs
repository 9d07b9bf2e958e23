//! How operations along one dimension (softmax, running sums, positions of extrema) traverse memory.

use kiln_backend::{Layout, MAX_RANK};

/// From this many neighbors on, adjacent lines are processed together.
const SIDE_BY_SIDE: usize = 16;

/// The lines of a tensor along one dimension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    /// Product of the extents before the dimension.
    pub(crate) outer: usize,
    /// Length of a line.
    pub(crate) n: usize,
    /// Product of the extents after the dimension.
    pub(crate) inner: usize,
    /// The order of dimensions that puts this one last.
    order: [usize; MAX_RANK],
    rank: usize,
}

impl Lines {
    /// The lines along a dimension that the tensor has. A scalar is one line of one element.
    pub(crate) fn new(layout: &Layout, dim: usize) -> Lines {
        let rank = layout.rank();
        let dims = layout.dims();
        let mut order: [usize; MAX_RANK] = std::array::from_fn(|i| i);
        if rank == 0 {
            return Lines { outer: 1, n: 1, inner: 1, order, rank };
        }
        order[dim..rank].rotate_left(1);
        let (outer, inner) = (dims[..dim].iter().product(), dims[dim + 1..].iter().product());
        Lines { outer, n: dims[dim], inner, order, rank }
    }

    /// The order of dimensions in which line `i` takes the positions `i * n..(i + 1) * n`.
    pub(crate) fn order(&self) -> &[usize] {
        &self.order[..self.rank]
    }

    /// Number of lines.
    pub(crate) fn count(&self) -> usize {
        self.outer * self.inner
    }

    /// Whether to traverse the tensor row by row, with the lines as columns, instead of line by line.
    pub(crate) fn side_by_side(&self) -> bool {
        self.inner >= SIDE_BY_SIDE
    }
}
