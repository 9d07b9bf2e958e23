//! The contracts of the primitives, checked here and nowhere else: [`Checked`] arguments, and the checks that many of
//! them share.
//!
//! The arguments of a primitive are a struct, whose [`check`](Arguments::check) is defined beside it in
//! [`ops`](crate::ops). A backend takes [`Checked`] arguments, which only that check can make, so its `unsafe` code may
//! rely on shapes, dtypes and numbers. A backend itself checks what only it can know: that memory is its own, that
//! layouts stay inside it, that outputs do not overlap themselves, and values in memory (indices, labels).

use std::ops::Deref;

use crate::{
    dtype::DType,
    error::{Error, Result},
    layout::Layout,
};

/// The arguments of a primitive.
pub trait Arguments: Sized {
    /// Checks what the operands must have in common, and the ranges of numbers.
    ///
    /// # Errors
    /// If they break the contract.
    fn check(&self) -> Result<()>;

    /// Checks the arguments and wraps them as a backend takes them.
    ///
    /// # Errors
    /// Those of [`check`](Arguments::check).
    fn checked(self) -> Result<Checked<Self>> {
        self.check()?;
        Ok(Checked(self))
    }
}

/// Arguments that passed their [`check`](Arguments::check).
#[derive(Clone, Copy, Debug)]
pub struct Checked<A>(pub(crate) A);

impl<A> Checked<A> {
    /// The arguments, unwrapped.
    #[must_use]
    pub fn into_inner(self) -> A {
        self.0
    }
}

impl<A> Deref for Checked<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.0
    }
}

/// Checks that `dim` is a dimension of `layout`. A scalar counts as a line of one element along dimension 0.
///
/// # Errors
/// If it is not.
pub fn has_dim(op: &'static str, layout: &Layout, dim: usize) -> Result<()> {
    if dim < layout.rank().max(1) { Ok(()) } else { Err(Error::dim(op, dim as i64, layout.rank())) }
}

/// Checks that all layouts have the same shape.
///
/// # Errors
/// If two differ.
pub fn same_shape(op: &'static str, layouts: &[&Layout]) -> Result<()> {
    match layouts.windows(2).find(|pair| pair[0].shape() != pair[1].shape()) {
        None => Ok(()),
        Some(pair) => Err(Error::shapes(op, pair[0].shape(), pair[1].shape(), "they must be equal")),
    }
}

/// Checks that an operand has the dtype `expected`.
///
/// # Errors
/// If it has another.
pub fn has_dtype(op: &'static str, expected: DType, dtype: DType) -> Result<()> {
    if dtype == expected { Ok(()) } else { Err(Error::dtypes(op, expected, dtype)) }
}

/// Checks that an operand's dtype is floating-point.
///
/// # Errors
/// If it is not.
pub fn is_float(op: &'static str, dtype: DType) -> Result<()> {
    if dtype.is_float() { Ok(()) } else { Err(Error::dtype(op, dtype, "it takes floating-point tensors")) }
}

/// Checks that `layout` has the extents `dims`; `what` names the operand.
///
/// # Errors
/// If it has other extents.
pub fn has_shape(op: &'static str, what: &str, layout: &Layout, dims: &[usize]) -> Result<()> {
    if layout.dims() == dims {
        Ok(())
    } else {
        Err(Error::shape(op, format!("{what} of shape {dims:?}"), layout.shape()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn layouts_are_compared() {
        let layout = |dims: &[usize]| Layout::contiguous(Shape::new(dims).unwrap());
        assert!(has_dim("t", &layout(&[]), 0).is_ok() && has_dim("t", &layout(&[2]), 1).is_err());
        assert!(same_shape("t", &[&layout(&[2, 3]), &layout(&[2, 3])]).is_ok());
        assert!(same_shape("t", &[&layout(&[2, 3]), &layout(&[2, 3]), &layout(&[3])]).is_err());
        assert!(has_shape("t", "a bias", &layout(&[4]), &[4]).is_ok());
        let error = has_shape("t", "a bias", &layout(&[4]), &[5]).unwrap_err().to_string();
        assert!(error.contains("a bias of shape [5]"), "{error}");
    }
}
