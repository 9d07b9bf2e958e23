//! Indexing by tensors: `index_select`, `index_add`, `gather`, `scatter`.

use crate::{Error, Layout, MAX_RANK, Operand, Result, View, ViewMut, has_dim};

/// What `scatter` does with the elements that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterMode {
    /// Overwrites. With repeated indices the last one in row-major order wins.
    Set,
    /// Adds, in row-major order (so the result is deterministic).
    Add,
}

/// Extent and stride of a dimension, or of the one element of a scalar.
#[must_use]
pub fn index_axis(layout: &Layout, dim: usize) -> (usize, isize) {
    if layout.rank() == 0 { (1, 0) } else { (layout.dims()[dim], layout.strides()[dim]) }
}

/// The strides of an index vector as those of an index of `x`'s rank: its own along `dim`, 0 in the other dimensions.
#[must_use]
pub fn index_vector_strides(dim: usize, index: &Layout) -> [isize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    strides[dim] = index_axis(index, 0).1;
    strides
}

/// Checks the shapes of `index_select` and `index_add`: the slices `[…, index[i], …]` of `whole` along `dim` are
/// `[…, i, …]` of `slices`.
///
/// # Errors
/// They do not fit.
pub fn check_index_vector(op: &'static str, slices: &Layout, whole: &Layout, dim: usize, index: &Layout) -> Result<()> {
    has_dim(op, whole, dim)?;
    if index.rank() > 1 {
        return Err(Error::shape(op, "an index vector", index.shape()));
    }
    let fits = slices.rank() == whole.rank()
        && (0..whole.rank()).all(|d| slices.dims()[d] == if d == dim { index.numel() } else { whole.dims()[d] })
        && (whole.rank() > 0 || index.numel() == 1);
    if fits {
        Ok(())
    } else {
        Err(Error::shapes(op, slices.shape(), whole.shape(), "all but the indexed extent must be equal"))
    }
}

/// Checks that an index of `gather` or `scatter` is nowhere larger than the tensor, except along `free`.
///
/// # Errors
/// It is.
pub fn check_index(op: &'static str, index: &Layout, tensor: &Layout, free: Option<usize>) -> Result<()> {
    let fits = index.rank() == tensor.rank()
        && index.dims().iter().zip(tensor.dims()).enumerate().all(|(d, (i, n))| i <= n || Some(d) == free);
    if fits {
        return Ok(());
    }
    let rule = match free {
        Some(dim) => format!("the index must be nowhere larger than the tensor, except along dimension {dim}"),
        None => "the index must be nowhere larger than the tensor".into(),
    };
    Err(Error::shapes(op, index.shape(), tensor.shape(), rule))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn shapes_are_checked() {
        let layout = |dims: &[usize]| Layout::contiguous(Shape::new(dims).unwrap());
        let (whole, slices, index) = (layout(&[5, 3]), layout(&[7, 3]), layout(&[7]));
        assert!(check_index_vector("t", &slices, &whole, 0, &index).is_ok());
        assert!(check_index_vector("t", &slices, &whole, 1, &index).is_err());
        assert!(check_index_vector("t", &slices, &whole, 2, &index).is_err());
        assert!(check_index_vector("t", &layout(&[]), &layout(&[]), 0, &layout(&[1])).is_ok());
        assert!(check_index_vector("t", &layout(&[]), &layout(&[]), 0, &layout(&[2])).is_err());
        assert!(check_index("t", &slices, &whole, Some(0)).is_ok() && check_index("t", &slices, &whole, None).is_err());
        assert_eq!(index_vector_strides(1, &index)[..3], [0, 1, 0]);
    }
}
