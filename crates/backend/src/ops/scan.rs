//! Scans along a dimension: `cumsum`, `cummax`, `cummin`.

use crate::{Result, View, ViewMut};

/// Scans along a dimension.
pub trait ScanBackend {
    /// Running sums along `dim`; integers and `bool` into `i64`.
    fn cumsum(&self, x: View, dim: usize, out: ViewMut) -> Result<()>;
    /// The largest element so far along `dim`, and its position (`i64`). Of equal elements it is the last; from the first
    /// NaN on it is the last NaN.
    fn cummax(&self, x: View, dim: usize, values: ViewMut, indices: ViewMut) -> Result<()>;
    /// The smallest element so far along `dim`, as [`cummax`](ScanBackend::cummax).
    fn cummin(&self, x: View, dim: usize, values: ViewMut, indices: ViewMut) -> Result<()>;
}
