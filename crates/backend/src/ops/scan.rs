//! Scans along a dimension: `cumsum`.

use crate::{Result, View, ViewMut};

/// Scans along a dimension.
pub trait ScanBackend {
    /// Running sums along `dim`; integers and `bool` into `i64`.
    fn cumsum(&self, x: View, dim: usize, out: ViewMut) -> Result<()>;
}
