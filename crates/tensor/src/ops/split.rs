//! Splitting a tensor into views along a dimension: `split`, `chunk`, `unbind`.

use kiln_backend::{Dim, Error, Result};
use kiln_derive::located;

use crate::tensor::Tensor;

/// How [`Tensor::split`] splits: one size for all parts (the last may be smaller), or a list of sizes.
pub trait SplitSizes {
    /// The sizes of the parts of an extent.
    ///
    /// # Errors
    /// If the sizes do not add up to the extent, or the size is 0.
    fn sizes(&self, extent: usize) -> Result<Vec<usize>>;

    /// Whether this is a list.
    fn is_list(&self) -> bool;
}

impl SplitSizes for usize {
    fn sizes(&self, extent: usize) -> Result<Vec<usize>> {
        if *self == 0 && extent > 0 {
            return Err(Error::argument("split", "the size of the parts must not be 0"));
        }
        // An empty extent is split into one empty part.
        let count = if extent == 0 { 1 } else { extent.div_ceil(*self) };
        Ok((0..count).map(|i| (*self).min(extent - i * *self)).collect())
    }
    fn is_list(&self) -> bool {
        false
    }
}

impl SplitSizes for [usize] {
    fn sizes(&self, extent: usize) -> Result<Vec<usize>> {
        if self.iter().try_fold(0usize, |sum, &size| sum.checked_add(size)) != Some(extent) {
            let message = format!("the sizes {self:?} do not add up to the extent {extent}");
            return Err(Error::argument("split", message));
        }
        Ok(self.to_vec())
    }
    fn is_list(&self) -> bool {
        true
    }
}

impl<const N: usize> SplitSizes for [usize; N] {
    fn sizes(&self, extent: usize) -> Result<Vec<usize>> {
        self.as_slice().sizes(extent)
    }
    fn is_list(&self) -> bool {
        true
    }
}

impl SplitSizes for Vec<usize> {
    fn sizes(&self, extent: usize) -> Result<Vec<usize>> {
        self.as_slice().sizes(extent)
    }
    fn is_list(&self) -> bool {
        true
    }
}

impl<T: SplitSizes + ?Sized> SplitSizes for &T {
    fn sizes(&self, extent: usize) -> Result<Vec<usize>> {
        (**self).sizes(extent)
    }
    fn is_list(&self) -> bool {
        (**self).is_list()
    }
}

#[located]
impl Tensor {
    /// Views of parts along a dimension: with `x.split(2, dim)` each has extent 2 (the last may be smaller), with
    /// `x.split([1, 2], dim)` the listed extents.
    ///
    /// # Errors
    /// If the dimension is out of range, the size is 0, or the sizes do not add up to the extent.
    pub fn split(&self, sizes: impl SplitSizes, dim: impl Dim) -> Result<Vec<Tensor>> {
        let dim = self.real_dim("split", dim)?;
        let name = if sizes.is_list() { "SplitWithSizesBackward0" } else { "SplitBackward0" };
        self.parts(name, &sizes.sizes(self.dims()[dim])?, dim)
    }

    /// At most `chunks` views of equal extent along a dimension; the last may be smaller. As in PyTorch there may be
    /// fewer chunks than requested: an extent of 5 in 4 chunks gives 2, 2 and 1.
    ///
    /// # Errors
    /// If the dimension is out of range, or `chunks` is 0.
    pub fn chunk(&self, chunks: usize, dim: impl Dim) -> Result<Vec<Tensor>> {
        let dim = self.real_dim("chunk", dim)?;
        if chunks == 0 {
            return Err(Error::argument("chunk", "the number of chunks must not be 0"));
        }
        let extent = self.dims()[dim];
        let sizes = if extent == 0 { vec![0; chunks] } else { extent.div_ceil(chunks).sizes(extent)? };
        self.parts("SplitBackward0", &sizes, dim)
    }

    /// The views at each index of a dimension, which is dropped.
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn unbind(&self, dim: impl Dim) -> Result<Vec<Tensor>> {
        let dim = self.real_dim("unbind", dim)?;
        (0..self.dims()[dim]).map(|i| self.select_view("UnbindBackward0", dim, i)).collect()
    }

    fn parts(&self, name: &'static str, sizes: &[usize], dim: usize) -> Result<Vec<Tensor>> {
        let mut start = 0;
        let part = |&size: &usize| {
            start += size;
            self.slice_view(name, dim, start - size, start, 1)
        };
        sizes.iter().map(part).collect()
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn dims(parts: &[Tensor]) -> Vec<Vec<usize>> {
        parts.iter().map(|t| t.dims().to_vec()).collect()
    }

    #[test]
    fn parts_have_pytorchs_sizes() -> Result<()> {
        let x = Tensor::arange(0., 10., Device::Cpu)?.reshape([2, 5])?;
        assert_eq!(dims(&x.split(2, 1)?), [[2, 2], [2, 2], [2, 1]]);
        assert_eq!(dims(&x.split([1, 4], -1)?), [[2, 1], [2, 4]]);
        assert_eq!(dims(&x.chunk(4, 1)?), [[2, 2], [2, 2], [2, 1]]);
        assert_eq!(x.unbind(0)?[1].to_vec::<f32>()?, [5., 6., 7., 8., 9.]);
        let empty = Tensor::zeros([0, 3], Device::Cpu)?;
        assert_eq!(dims(&empty.split(2, 0)?), [[0, 3]]);
        assert_eq!(dims(&empty.split(0, 0)?), [[0, 3]]);
        assert_eq!(dims(&empty.chunk(3, 0)?), [[0, 3]; 3]);
        assert!(x.split(0, 0).is_err() && x.split([1, 1], 1).is_err() && x.chunk(0, 0).is_err());
        assert!(Tensor::zeros((), Device::Cpu)?.split(1, 0).is_err());
        Ok(())
    }

    #[test]
    fn gradients_return_to_their_places() -> Result<()> {
        let x = Tensor::arange(0., 6., Device::Cpu)?.reshape([2, 3])?.requires_grad_(true)?;
        let parts = x.split([1, 2], 1)?;
        assert_eq!(parts[0].grad_fn().unwrap().name(), "SplitWithSizesBackward0");
        parts[1].mul(2.)?.sum(())?.add(&parts[0].sum(())?)?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 2., 2., 1., 2., 2.]);
        Ok(())
    }
}
