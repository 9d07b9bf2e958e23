//! Lower and upper triangles of matrices.

use crate::{Result, View, ViewMut};

/// `tril` and `triu`.
pub trait TrilTriuBackend {
    /// Keeps the elements of each matrix (the last two dimensions) with `column - row <= diagonal` (lower)
    /// or `>= diagonal` (upper), and zeroes the others.
    fn tril_triu(&self, upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()>;
}
