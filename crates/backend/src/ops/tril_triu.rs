//! Lower and upper triangles of matrices.

use crate::{
    contract::{Arguments, Checked, has_dtype, same_shape},
    error::{Error, Result},
    view::{View, ViewMut},
};

/// Arguments of [`tril_triu`](TrilTriuBackend::tril_triu).
#[derive(Debug)]
pub struct TrilTriuArgs<'a> {
    /// Whether to keep the upper triangle rather than the lower one.
    pub upper: bool,
    /// The diagonal that bounds the triangle, inclusive; 0 is the main one, positive ones are above it.
    pub diagonal: i64,
    /// The matrices, in the last two dimensions.
    pub x: View<'a>,
    /// Receives the result, in the shape of `x`.
    pub out: ViewMut<'a>,
}

impl TrilTriuArgs<'_> {
    /// The name for errors: that of the tensor's method.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.upper { "triu" } else { "tril" }
    }
}

impl Arguments for TrilTriuArgs<'_> {
    fn check(&self) -> Result<()> {
        let TrilTriuArgs { x, out, .. } = self;
        has_dtype(self.name(), x.dtype(), out.dtype())?;
        same_shape(self.name(), &[x.layout, out.layout])?;
        if x.layout.rank() < 2 {
            return Err(Error::shape(self.name(), "at least 2 dimensions", x.layout.shape()));
        }
        Ok(())
    }
}

/// `tril` and `triu`.
pub trait TrilTriuBackend {
    /// Keeps the elements of each matrix with `column - row <= diagonal` (lower) or `>= diagonal` (upper), and zeroes the
    /// others.
    fn tril_triu(&self, args: Checked<TrilTriuArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let check = |dims: &[usize], out: &[usize], dtype| {
            let (memory, mut target, x, out) = (Memory(DType::F32), Memory(dtype), layout(dims), layout(out));
            let (x, out) = (memory.view(&x), target.view_mut(&out));
            TrilTriuArgs { upper: true, diagonal: 0, x, out }.check().is_ok()
        };
        assert!(check(&[2, 3], &[2, 3], DType::F32));
        assert!(!check(&[6], &[6], DType::F32) && !check(&[2, 3], &[3, 2], DType::F32));
        assert!(!check(&[2, 3], &[2, 3], DType::F64));
    }
}
