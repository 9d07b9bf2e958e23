//! Filling with one value or an arithmetic sequence.

use crate::{Result, Scalar, ViewMut};

/// Bounds of `arange`-like fills: element `i` is `start + i * step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// The first element.
    pub start: Scalar,
    /// The difference of neighbours.
    pub step: Scalar,
}

/// Fills tensors with values that depend on the position only.
pub trait FillBackend {
    /// Sets every element.
    fn fill(&self, value: Scalar, out: ViewMut) -> Result<()>;
    /// Sets element `i` (in row-major order) to `start + i * step`, computed in `f64` or `i64` by the kind
    /// of the scalars.
    fn ramp(&self, ramp: Ramp, out: ViewMut) -> Result<()>;
}
