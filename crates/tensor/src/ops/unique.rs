//! Distinct elements and membership: `unique`, `unique_consecutive`, `isin`, `bucketize`, `msort`.

use kiln_backend::{DType, Dim, Result};
use kiln_derive::located;

use super::{check, promotion::result_type, rhs::Rhs};
use crate::{autograd::no_grad, tensor::Tensor};

#[located]
impl Tensor {
    /// The distinct elements in ascending order; for each element the position of its value among them; and how often each
    /// occurs (`i64`): PyTorch's `unique(return_inverse=True, return_counts=True)`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.unique.html>). It waits for the
    /// device, since the lengths of the results depend on the values.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn unique(&self) -> Result<(Tensor, Tensor, Tensor)> {
        no_grad(|| {
            let (sorted, order) = self.detach().flatten_all()?.sort(0, false)?;
            let (values, places, counts) = sorted.unique_consecutive()?;
            let inverse = places.scatter(0, &order, &places)?;
            Ok((values, inverse.reshape(self.dims())?, counts))
        })
    }

    /// The elements without those that equal the one before; for each element the position of its value in the result; and how
    /// many each stands for (`i64`)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.unique_consecutive.html>). It waits for the device.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn unique_consecutive(&self) -> Result<(Tensor, Tensor, Tensor)> {
        no_grad(|| {
            let flat = self.detach().flatten_all()?;
            let n = flat.numel();
            let integers = (DType::I64, self.device());
            if n == 0 {
                return Ok((flat.copy()?, Tensor::zeros(self.dims(), integers)?, Tensor::zeros([0], integers)?));
            }
            let first = Tensor::full([1], true, (DType::Bool, self.device()))?;
            let starts = Tensor::cat(&[first, flat.narrow(0, 1, n - 1)?.ne(&flat.narrow(0, 0, n - 1)?)?], 0)?;
            let places = starts.cumsum(0)?.sub(1)?;
            let values = flat.masked_select(&starts)?;
            let ones = Tensor::ones([n], integers)?;
            let counts = Tensor::zeros([values.numel()], integers)?.scatter_add(0, &places, &ones)?;
            Ok((values, places.reshape(self.dims())?, counts))
        })
    }

    /// [`unique`](Tensor::unique) of slices along a dimension, in lexicographic order; the positions are a vector.
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn unique_dim(&self, dim: impl Dim) -> Result<(Tensor, Tensor, Tensor)> {
        let dim = self.real_dim("unique_dim", dim.resolve("unique_dim", self.rank())?)?;
        no_grad(|| {
            let rows = self.rows_along(dim)?;
            let mut order = Tensor::arange(0, rows.dims()[0] as i64, (DType::I64, self.device()))?;
            // A stable sort by the last element, then by the one before, and so on.
            for column in (0..rows.dims()[1]).rev() {
                let keys = rows.select(1, column as i64)?.index_select(0, &order)?;
                order = order.index_select(0, &keys.argsort(0, false)?)?;
            }
            let (values, places, counts) = self.detach().index_select(dim, &order)?.unique_consecutive_dim(dim)?;
            Ok((values, places.scatter(0, &order, &places)?, counts))
        })
    }

    /// [`unique_consecutive`](Tensor::unique_consecutive) of slices along a dimension; the positions are a vector.
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn unique_consecutive_dim(&self, dim: impl Dim) -> Result<(Tensor, Tensor, Tensor)> {
        const OP: &str = "unique_consecutive_dim";
        let dim = self.real_dim(OP, dim.resolve(OP, self.rank())?)?;
        no_grad(|| {
            let rows = self.rows_along(dim)?;
            let n = rows.dims()[0];
            if n == 0 {
                let none = Tensor::zeros([0], (DType::I64, self.device()))?;
                return Ok((self.detach().copy()?, none.clone(), none));
            }
            let differs = rows.narrow(0, 1, n - 1)?.ne(&rows.narrow(0, 0, n - 1)?)?.any(1)?;
            let first = Tensor::full([1], true, (DType::Bool, self.device()))?;
            let starts = Tensor::cat(&[first, differs], 0)?;
            let places = starts.cumsum(0)?.sub(1)?;
            let values = self.detach().index_select(dim, &starts.nonzero()?.flatten_all()?)?;
            let counts = Tensor::zeros([values.dims()[dim]], places.options())?;
            let counts = counts.scatter_add(0, &places, &places.ones_like()?)?;
            Ok((values, places, counts))
        })
    }

    /// The slices along a dimension as rows.
    fn rows_along(&self, dim: usize) -> Result<Tensor> {
        let n = self.dims()[dim];
        self.detach().movedim(dim, 0)?.reshape([n, self.numel().checked_div(n).unwrap_or(0)])
    }

    /// Whether each element is one of `test_elements`, or with `invert`, none of them
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.isin.html>).
    ///
    /// # Errors
    /// If devices differ.
    pub fn isin(&self, test_elements: &Tensor, invert: bool) -> Result<Tensor> {
        check::same_device("isin", self, &[test_elements])?;
        no_grad(|| {
            let found = if test_elements.numel() == 0 {
                Tensor::full(self.dims(), false, (DType::Bool, self.device()))?
            } else {
                let dtype = result_type(&[&Rhs::from(self), &Rhs::from(test_elements)]);
                let (x, test) = (self.detach().to_dtype(dtype)?, test_elements.detach().to_dtype(dtype)?);
                let (sorted, _) = test.flatten_all()?.sort(0, false)?;
                let place = sorted.searchsorted(&x, false)?.clamp_max(sorted.numel() as i64 - 1)?;
                sorted.take(&place)?.eq(&x)?
            };
            if invert { found.logical_not() } else { Ok(found) }
        })
    }

    /// For each element, the number of `boundaries`, a sorted vector, that are less than it (with `right`: less or equal), as
    /// `i64` (<https://docs.pytorch.org/docs/stable/generated/torch.bucketize.html>).
    ///
    /// # Errors
    /// Those of [`searchsorted`](Tensor::searchsorted); or if the boundaries are no vector.
    pub fn bucketize(&self, boundaries: &Tensor, right: bool) -> Result<Tensor> {
        const OP: &str = "bucketize";
        check::same_device(OP, self, &[boundaries])?;
        if boundaries.rank() != 1 {
            return Err(kiln_backend::Error::shape(OP, "a vector of boundaries", boundaries.shape()));
        }
        let dtype = result_type(&[&Rhs::from(self), &Rhs::from(boundaries)]);
        boundaries.to_dtype(dtype)?.searchsorted(&self.to_dtype(dtype)?, right)
    }

    /// The elements sorted along the first dimension.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn msort(&self) -> Result<Tensor> {
        Ok(self.sort(0, false)?.0)
    }
}
