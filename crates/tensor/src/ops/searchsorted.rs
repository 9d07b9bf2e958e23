//! `searchsorted`: binary search in sorted tensors.

use kiln_backend::{Arguments, DType, Error, Result, SearchsortedArgs};
use kiln_derive::located;

use super::{check, rhs::Rhs};
use crate::{autograd::no_grad, tensor::Tensor};

#[located]
impl Tensor {
    /// [`searchsorted`](Tensor::searchsorted) in a tensor that is not sorted but whose sorted order is known: `sorter`
    /// is what [`argsort`](Tensor::argsort) returns for its last dimension.
    ///
    /// # Errors
    /// Those of [`searchsorted`](Tensor::searchsorted); or if `sorter` has another shape, is not of integers, or holds
    /// an index out of range.
    pub fn searchsorted_with(&self, sorter: &Tensor, values: impl Into<Rhs>, right: bool) -> Result<Tensor> {
        const OP: &str = "searchsorted_with";
        if sorter.shape() != self.shape() {
            return Err(Error::shapes(OP, self.shape(), sorter.shape(), "the sorter must have the tensor's shape"));
        }
        no_grad(|| self.detach().gather(-1, sorter))?.searchsorted(values, right)
    }

    /// For each of `values`, the position in this tensor's sorted last dimension at which to insert it: the number of
    /// elements less than it (with `right`: less or equal), as `i64`. Values of any shape may be searched for in a
    /// sorted vector; otherwise all dimensions but the last must be equal.
    ///
    /// # Errors
    /// If the tensor is a scalar, the shapes do not fit, or dtypes or devices differ.
    pub fn searchsorted(&self, values: impl Into<Rhs>, right: bool) -> Result<Tensor> {
        const OP: &str = "searchsorted";
        let values = match values.into() {
            Rhs::Tensor(t) => t,
            Rhs::Scalar(value) => Tensor::full((), value, self.options())?,
        };
        check::same_kind(OP, self, &[&values])?;
        let Some(lead) = self.rank().checked_sub(1) else {
            return Err(Error::shape(OP, "sorted values with at least 1 dimension", self.shape()));
        };
        let flat;
        let list = if lead == 0 {
            flat = values.detach().flatten_all()?;
            &flat
        } else if values.rank() == self.rank() && values.dims()[..lead] == self.dims()[..lead] {
            &values
        } else {
            let expected = "all extents but the last must be equal, or the sorted values a vector";
            return Err(Error::shapes(OP, self.shape(), values.shape(), expected));
        };
        let (sorted, wanted) = (self.read(), list.read());
        let out = Tensor::compute(self.device(), DType::I64, *list.shape(), |backend, out| {
            backend
                .searchsorted(SearchsortedArgs { sorted: sorted.view(), values: wanted.view(), right, out }.checked()?)
        })?;
        Ok(out.with_shape(*values.shape()).noted(OP, &[self, &values], || [("right", right.into())]))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn places_left_and_right() -> Result<()> {
        let sorted = Tensor::new(&[1f32, 3., 3., 5.], Device::Cpu)?;
        let values = Tensor::new(&[[0f32, 3.], [4., 9.]], Device::Cpu)?;
        assert_eq!(sorted.searchsorted(&values, false)?.to_vec::<i64>()?, [0, 1, 3, 4]);
        assert_eq!(sorted.searchsorted(&values, true)?.to_vec::<i64>()?, [0, 3, 3, 4]);
        assert_eq!(sorted.searchsorted(3, true)?.item::<i64>()?, 3);
        let rows = Tensor::new(&[[1f32, 2.], [3., 4.]], Device::Cpu)?;
        assert_eq!(rows.searchsorted(&values, false)?.to_vec::<i64>()?, [0, 2, 1, 2]);
        assert!(rows.searchsorted(1, false).is_err());
        assert!(Tensor::new(1f32, Device::Cpu)?.searchsorted(1, false).is_err());
        Ok(())
    }
}
