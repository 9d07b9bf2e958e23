//! Linear interpolation: `lerp`.

use kiln_backend::Result;
use kiln_derive::located;
use smallvec::smallvec;

use super::{check, rhs::Rhs};
use crate::{
    autograd::{no_grad, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `self + weight * (end - self)`: interpolates from this tensor to `end`. The weight is a number or a tensor.
    ///
    /// # Errors
    /// If the shapes do not broadcast, dtypes or devices differ, or the tensors are not floating-point.
    pub fn lerp(&self, end: &Tensor, weight: impl Into<Rhs>) -> Result<Tensor> {
        check::floats("lerp", self)?;
        check::same_kind("lerp", self, &[end])?;
        match weight.into() {
            Rhs::Scalar(weight) => self.lerp_by_number(end, weight.to_f64()),
            Rhs::Tensor(weight) => {
                check::same_kind("lerp", self, &[&weight])?;
                self.lerp_by_tensor(end, &weight)
            }
        }
    }

    fn lerp_by_number(&self, end: &Tensor, weight: f64) -> Result<Tensor> {
        let out = no_grad(|| {
            let (start, end) = (self.widened()?, end.widened()?);
            let way = end.sub(&start)?;
            // Computed from the nearer end, so that a weight of 1 gives `end` itself.
            let out =
                if weight.abs() < 0.5 { start.add_alpha(&way, weight) } else { end.sub_alpha(&way, 1.0 - weight) };
            out?.to_dtype(self.dtype())
        })?;
        let shapes = [*self.shape(), *end.shape()];
        record(out, "LerpBackward0", &[self, end], &[], move |ctx| {
            let grad = ctx.grad()?;
            Ok(smallvec![
                ctx.when(0, || grad.mul(1.0 - weight)?.sum_to(&shapes[0]))?,
                ctx.when(1, || grad.mul(weight)?.sum_to(&shapes[1]))?
            ])
        })
    }

    fn lerp_by_tensor(&self, end: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let dtype = self.dtype();
        let out = no_grad(|| {
            let (start, end, weight) = (self.widened()?, end.widened()?, weight.widened()?);
            let way = end.sub(&start)?;
            let (from_start, from_end) = (start.add(&way.mul(&weight)?)?, end.sub(&way.mul(&weight.rsub(1)?)?)?);
            weight.abs()?.lt(0.5)?.where_cond(&from_start, &from_end)?.to_dtype(dtype)
        })?;
        let shapes = [self, end, weight].map(|t| *t.shape());
        record(out, "LerpBackward1", &[self, end, weight], &[self, end, weight], move |ctx| {
            let grad = ctx.grad()?.widened()?;
            let weight = || ctx.saved(2)?.widened();
            Ok(smallvec![
                ctx.when(0, || grad.mul(&weight()?.rsub(1)?)?.sum_to(&shapes[0])?.to_dtype(dtype))?,
                ctx.when(1, || grad.mul(&weight()?)?.sum_to(&shapes[1])?.to_dtype(dtype))?,
                ctx.when(2, || {
                    let way = ctx.saved(1)?.widened()?.sub(&ctx.saved(0)?.widened()?)?;
                    grad.mul(&way)?.sum_to(&shapes[2])?.to_dtype(dtype)
                })?
            ])
        })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn lerp_goes_part_of_the_way() -> Result<()> {
        let x = Tensor::new(&[[0f32], [4.]], Device::Cpu)?.requires_grad_(true)?;
        let y = Tensor::new(&[8f32, 4.], Device::Cpu)?;
        let z = x.lerp(&y, 0.25)?;
        assert_eq!(z.to_vec::<f32>()?, [2., 1., 5., 4.]);
        z.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1.5, 1.5]);
        Ok(())
    }
}
