//! Positions of the largest and smallest elements: `argmax`, `argmin`, and `max`, `min` along a dimension.

use crate::{Result, View, ViewMut};

/// A reduction of one dimension to the position of one element. NaN counts as the largest for `Max` and as
/// the smallest for `Min`; of equal elements the first is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgReduceOp {
    /// The position of the largest element.
    Max,
    /// The position of the smallest element.
    Min,
}

/// Reductions of a dimension to a position.
pub trait ArgReduceBackend {
    /// Reduces dimension `dim`, which has extent 1 in both outputs. `values` may be left out.
    fn arg_reduce(&self, op: ArgReduceOp, x: View, dim: usize, values: Option<ViewMut>, indices: ViewMut)
    -> Result<()>;
}
