//! What operands must have in common. The caller of a backend keeps to it; a backend's `unsafe` code relies on it and so has
//! it checked, in these words for all backends.

use crate::{Error, Layout, Result};

/// Checks that `dim` is a dimension. A scalar is a line of one element, along dimension 0.
///
/// # Errors
/// It is not.
pub fn has_dim(op: &'static str, layout: &Layout, dim: usize) -> Result<()> {
    if dim < layout.rank().max(1) { Ok(()) } else { Err(Error::dim(op, dim as i64, layout.rank())) }
}

/// Checks that all layouts have one shape.
///
/// # Errors
/// Two differ.
pub fn same_shape(op: &'static str, layouts: &[&Layout]) -> Result<()> {
    match layouts.windows(2).find(|pair| pair[0].shape() != pair[1].shape()) {
        None => Ok(()),
        Some(pair) => Err(Error::shapes(op, pair[0].shape(), pair[1].shape(), "they must be equal")),
    }
}

/// Checks that `layout` has the extents `dims`; `what` names the operand.
///
/// # Errors
/// It has others.
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
    use crate::Shape;

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
