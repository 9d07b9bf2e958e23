//! Positions of the largest and smallest elements: `argmax`, `argmin`, and `max`, `min` along a dimension.

use crate::{Error, Layout, MAX_RANK, Result, View, ViewMut, has_dim, has_shape};

/// A reduction of one dimension to the position of one element. NaN counts as the largest for `Max` and as
/// the smallest for `Min`; of equal elements the first is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgReduceOp {
    /// The position of the largest element.
    Max,
    /// The position of the smallest element.
    Min,
}

impl ArgReduceOp {
    /// The name for errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ArgReduceOp::Max => "argmax",
            ArgReduceOp::Min => "argmin",
        }
    }

    /// Checks that `out` has the extents of `x`, with 1 along `dim`, and that there is an element to choose.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn check(self, x: &Layout, dim: usize, out: &Layout) -> Result<()> {
        has_dim(self.name(), x, dim)?;
        let mut dims = [0; MAX_RANK];
        let dims = &mut dims[..x.rank()];
        dims.copy_from_slice(x.dims());
        dims.iter_mut().skip(dim).take(1).for_each(|extent| *extent = 1);
        has_shape(self.name(), "a result", out, dims)?;
        if out.numel() > 0 && x.numel() == 0 {
            return Err(Error::shape(self.name(), "at least one element to choose from", x.shape()));
        }
        Ok(())
    }
}

/// Reductions of a dimension to a position.
pub trait ArgReduceBackend {
    /// Reduces dimension `dim`, which has extent 1 in both outputs. `values` may be left out.
    fn arg_reduce(&self, op: ArgReduceOp, x: View, dim: usize, values: Option<ViewMut>, indices: ViewMut)
    -> Result<()>;
}
