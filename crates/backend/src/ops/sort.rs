//! Sorting and binary search: `sort`, `searchsorted`.

use crate::{Result, View, ViewMut};

/// Sorting and binary search.
pub trait SortBackend {
    /// A stable sort along `dim`, NaN as the largest; `indices` are positions in `x`.
    fn sort(&self, x: View, dim: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()>;
    /// For each value the number of elements of the sorted last dimension of `sorted` that are below it
    /// (`right`: not above it). `sorted` is `[…, n]`, `values` and `out` (`i64`) are `[…, m]`.
    fn searchsorted(&self, sorted: View, values: View, right: bool, out: ViewMut) -> Result<()>;
}
