//! Scans along a dimension: running sums and extremes (`cumsum`, `cummax`, `cummin`).

use kiln_backend::{Arguments, CumExtreme, CumExtremeArgs, CumsumArgs, DType, Dim, Error, Result};
use kiln_derive::located;

use super::gather::lifted;
use crate::{
    autocast::cast_operands,
    autograd::{one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// For each element, the sum of the elements up to and including it along a dimension; integers and `bool` give
    /// `i64`.
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn cumsum(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve("cumsum", self.rank())?;
        cast_operands("cumsum", [self], [], |[x], []| x.cumsum_along(dim))
    }

    /// [`cumsum`](Tensor::cumsum) in another dtype, PyTorch's `cumsum(dim, dtype=dtype)`: elements are converted before they
    /// are added.
    ///
    /// # Errors
    /// If the dimension is out of range, or the dtype is `bool`.
    pub fn cumsum_dtype(&self, dim: impl Dim, dtype: DType) -> Result<Tensor> {
        const OP: &str = "cumsum_dtype";
        let dim = dim.resolve(OP, self.rank())?;
        if dtype == DType::Bool {
            return Err(Error::dtype(OP, dtype, "sums are numbers"));
        }
        self.to_dtype(dtype)?.cumsum_along(dim)?.to_dtype(dtype)
    }

    fn cumsum_along(&self, dim: usize) -> Result<Tensor> {
        let (reading, layout) = (self.read(), lifted(self.layout())?);
        let dtype = if self.dtype().is_float() { self.dtype() } else { DType::I64 };
        let out = Tensor::compute(self.device(), dtype, *layout.shape(), |backend, out| {
            backend.cumsum(CumsumArgs { x: reading.through(&layout), dim, out }.checked()?)
        })?;
        let is_scalar = self.rank() == 0;
        let out = record(out.with_shape(*self.shape()), "CumsumBackward0", &[self], &[], move |ctx| {
            let grad = ctx.grad()?;
            // Each element is part of its own sum and of those after it.
            Ok(one(if is_scalar { grad } else { grad.flip(dim)?.cumsum(dim)?.flip(dim)? }))
        })?;
        Ok(out.described("cumsum", || [("dim", dim.into())]))
    }

    /// For each element, the largest of the elements up to and including it along a dimension, and its position
    /// (`i64`). Of equal ones, it is the last; after a NaN, it is the last NaN. The gradient goes to the positions
    /// returned.
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn cummax(&self, dim: impl Dim) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve("cummax", self.rank())?;
        let found = self.values_and_indices(|backend, x, values, at| {
            backend.cum_extreme(CumExtremeArgs { op: CumExtreme::Cummax, x, dim, values, indices: at }.checked()?)
        })?;
        self.running("cummax", "CummaxBackward0", dim, found)
    }

    /// For each element, the smallest of the elements up to and including it along a dimension, and its position, as
    /// [`cummax`](Tensor::cummax).
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn cummin(&self, dim: impl Dim) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve("cummin", self.rank())?;
        let found = self.values_and_indices(|backend, x, values, at| {
            backend.cum_extreme(CumExtremeArgs { op: CumExtreme::Cummin, x, dim, values, indices: at }.checked()?)
        })?;
        self.running("cummin", "CumminBackward0", dim, found)
    }

    /// Records that the values are this tensor's elements at the indices, each any number of times.
    fn running(
        &self,
        op: &'static str,
        node: &'static str,
        dim: usize,
        (values, indices): (Tensor, Tensor),
    ) -> Result<(Tensor, Tensor)> {
        let own = *self.shape();
        let values = record(values, node, &[self], &[&indices], move |ctx| {
            let grad = ctx.grad()?;
            let sum = Tensor::zeros(own, grad.options())?;
            sum.scatter_add_(dim, &ctx.saved(0)?, &grad)?;
            Ok(one(sum))
        })?;
        Ok((values.described(op, || [("dim", dim.into())]), indices.noted(op, &[self], || [("dim", dim.into())])))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn gradients_go_to_the_last_of_equal_extremes() -> Result<()> {
        let x = Tensor::new(&[1f32, 3., 3., 2.], Device::Cpu)?.requires_grad_(true)?;
        let (values, indices) = x.cummax(0)?;
        assert_eq!((values.to_vec::<f32>()?, indices.to_vec::<i64>()?), (vec![1., 3., 3., 3.], vec![0, 1, 2, 2]));
        values.mul(&Tensor::new(&[1f32, 10., 100., 1000.], Device::Cpu)?)?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 10., 1100., 0.]);
        let (values, indices) = Tensor::new(&[[f32::NAN, 1.], [0., -1.]], Device::Cpu)?.cummin(0)?;
        assert!(values.to_vec::<f32>()?[2].is_nan());
        assert_eq!((values.to_vec::<f32>()?[3], indices.to_vec::<i64>()?), (-1., vec![0, 0, 0, 1]));
        assert!(x.cummin(1).is_err());
        Ok(())
    }

    #[test]
    fn sums_run_along_the_dimension() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2.], [3., 4.]], Device::Cpu)?.requires_grad_(true)?;
        assert_eq!(x.cumsum(0)?.to_vec::<f32>()?, [1., 2., 4., 6.]);
        x.t()?.cumsum(-1)?.mul(&Tensor::new(&[1f32, 10.], Device::Cpu)?)?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [11., 11., 10., 10.]);
        let mask = Tensor::new(&[true, false, true], Device::Cpu)?;
        assert_eq!(mask.cumsum(0)?.to_vec::<i64>()?, [1, 1, 2]);
        assert_eq!(Tensor::new(2f32, Device::Cpu)?.cumsum(0)?.item::<f32>()?, 2.);
        assert_eq!(Tensor::zeros([0, 3], Device::Cpu)?.cumsum(0)?.dims(), [0, 3]);
        Ok(())
    }
}
