//! Filling with one value or an arithmetic sequence.

use crate::{error::Result, scalar::Scalar, view::ViewMut};

/// An arithmetic sequence: element `i` is `start + i * step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arange {
    /// The first element.
    pub start: Scalar,
    /// The difference between neighboring elements.
    pub step: Scalar,
}

/// Fills tensors with values that depend on the position only.
pub trait FillBackend {
    /// Sets every element.
    fn fill(&self, value: Scalar, out: ViewMut) -> Result<()>;
    /// Sets element `i` (in row-major order) to `start + i * step`, computed in `f64` or `i64` by the kind
    /// of the scalars.
    fn arange(&self, range: Arange, out: ViewMut) -> Result<()>;
}
