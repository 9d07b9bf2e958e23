//! Running sums.

use kiln_backend::{DType, Dim, Result};
use kiln_derive::located;

use super::gather::lifted;
use crate::{
    Tensor,
    autograd::{one, record},
};

#[located]
impl Tensor {
    /// For each element the sum of those up to and with it along a dimension; integers and `bool` give `i64`.
    ///
    /// # Errors
    /// The dimension is out of range.
    pub fn cumsum(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve("cumsum", self.rank())?;
        let (reading, layout) = (self.read(), lifted(self.layout())?);
        let dtype = if self.dtype().is_float() { self.dtype() } else { DType::I64 };
        let out = Tensor::compute(self.device(), dtype, *layout.shape(), |backend, out| {
            backend.cumsum(reading.through(&layout), dim, out)
        })?;
        let is_scalar = self.rank() == 0;
        record(out.with_shape(*self.shape()), "CumsumBackward0", &[self], &[], move |ctx| {
            let grad = ctx.grad()?;
            // Each element is part of its own sum and of those behind it.
            Ok(one(if is_scalar { grad } else { grad.flip(dim)?.cumsum(dim)?.flip(dim)? }))
        })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{Device, Result, Tensor};

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
