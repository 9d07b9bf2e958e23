//! Indexing by tensors: `index_select`, `index_add`, `gather`, `scatter`.

use crate::{Operand, Result, View, ViewMut};

/// What `scatter` does with the elements that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterMode {
    /// Overwrites. With repeated indices the last one in row-major order wins.
    Set,
    /// Adds, in row-major order (so the result is deterministic).
    Add,
}

/// Indexing by tensors of `i64`. An index outside `0..size` is an error.
pub trait IndexBackend {
    /// `out[…, i, …] = x[…, index[i], …]`: whole slices along `dim`.
    fn index_select(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()>;
    /// `out[…, index[i], …] += x[…, i, …]`: the gradient of `index_select`.
    fn index_add(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()>;
    /// `out[…, i, …] = x[…, index[…, i, …], …]`: `index` has the shape of `out`, and no extent above `x`'s
    /// except along `dim`.
    fn gather(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()>;
    /// `out[…, index[…, i, …], …] = x[…, i, …]` (or `+=`) over the shape of `index`, which is nowhere larger
    /// than `x`'s, nor than `out`'s except along `dim`.
    fn scatter(&self, mode: ScatterMode, x: Operand, dim: usize, index: View, out: ViewMut) -> Result<()>;
}
