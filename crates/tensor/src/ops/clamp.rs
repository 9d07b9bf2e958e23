//! Clamping values to an interval: `clamp`, `clamp_min`, `clamp_max`.

use kiln_backend::{DType, Result};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{promotion::result_type, rhs::Rhs};
use crate::{
    autograd::{Ctx, no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `min` where the element is below it, `max` where it is above; also `max` where the bounds cross. Each bound is a
    /// number or a tensor; all broadcast. NaN stays NaN. If the bounds have another dtype, the result has the one that
    /// PyTorch promotes to.
    ///
    /// As in PyTorch, with numeric bounds the gradient is 0 at a bound and at NaN; with tensor bounds it goes to the
    /// one whose value was taken, and equal ones share it.
    ///
    /// # Errors
    /// If shapes do not broadcast, or devices differ.
    pub fn clamp(&self, min: impl Into<Rhs>, max: impl Into<Rhs>) -> Result<Tensor> {
        let (min, max): (Rhs, Rhs) = (min.into(), max.into());
        match (&min, &max) {
            (Rhs::Scalar(low), Rhs::Scalar(high)) => {
                let (low, high) = (*low, *high);
                let out = no_grad(|| self.maximum(low)?.minimum(high))?;
                self.record_clamp(out, move |x| x.gt(low)?.logical_and(&x.lt(high)?))
            }
            _ => {
                let dtype = result_type(&[&self.into(), &min, &max]);
                self.to_dtype(dtype)?.clamp_between(&self.bound(&min, dtype)?, &self.bound(&max, dtype)?)
            }
        }
    }

    /// [`clamp`](Tensor::clamp) without an upper bound.
    ///
    /// # Errors
    /// Those of [`clamp`](Tensor::clamp).
    pub fn clamp_min(&self, min: impl Into<Rhs>) -> Result<Tensor> {
        let min = min.into();
        match &min {
            Rhs::Scalar(low) => {
                let low = *low;
                self.record_clamp(no_grad(|| self.maximum(low))?, move |x| x.gt(low))
            }
            Rhs::Tensor(low) => {
                let dtype = result_type(&[&self.into(), &min]);
                self.to_dtype(dtype)?.clamp_beyond(&low.to_dtype(dtype)?, false)
            }
        }
    }

    /// [`clamp`](Tensor::clamp) without a lower bound.
    ///
    /// # Errors
    /// Those of [`clamp`](Tensor::clamp).
    pub fn clamp_max(&self, max: impl Into<Rhs>) -> Result<Tensor> {
        let max = max.into();
        match &max {
            Rhs::Scalar(high) => {
                let high = *high;
                self.record_clamp(no_grad(|| self.minimum(high))?, move |x| x.lt(high))
            }
            Rhs::Tensor(high) => {
                let dtype = result_type(&[&self.into(), &max]);
                self.to_dtype(dtype)?.clamp_beyond(&high.to_dtype(dtype)?, true)
            }
        }
    }

    /// [`clamp`](Tensor::clamp) in place.
    ///
    /// # Errors
    /// Those of [`clamp`](Tensor::clamp); or if the result does not fit into this tensor; or it is a leaf that requires
    /// gradients while recording is on.
    pub fn clamp_(&self, min: impl Into<Rhs>, max: impl Into<Rhs>) -> Result<()> {
        let (min, max): (Rhs, Rhs) = (min.into(), max.into());
        let recorded = self.records_change("clamp_", min.tensor().or(max.tensor()))?;
        // The gradient reads the old values.
        let new = if recorded { self.copy()?.clamp(min, max)? } else { self.clamp(min, max)? };
        self.replace_by("clamp_", &self.cast_in_place("clamp_", &new)?)
    }

    /// Records a clamp between numbers, whose gradient passes where `inside` is true.
    fn record_clamp(
        &self,
        out: Tensor,
        inside: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        record(out, "ClampBackward1", &[self], &[self], move |ctx| {
            Ok(one(ctx.grad()?.keep_where(&inside(&ctx.saved(0)?)?)?))
        })
    }

    /// Clamping by one tensor: `maximum` or `minimum` under another name.
    fn clamp_beyond(&self, bound: &Tensor, is_upper: bool) -> Result<Tensor> {
        let out = no_grad(|| if is_upper { self.minimum(bound) } else { self.maximum(bound) })?;
        let shapes = [*self.shape(), *bound.shape()];
        record(out, "ClampBackward0", &[self, bound], &[self, bound], move |ctx| {
            let (grad, x, bound) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
            let tie = x.eq(&bound)?;
            let (below, above) = (x.lt(&bound)?, x.gt(&bound)?);
            // At NaN both get the whole gradient.
            let lost = if is_upper { [&above, &below] } else { [&below, &above] };
            let share = |lost: &Tensor, shape| {
                let whole = grad.masked_fill(&lost.logical_or(&tie)?, 0)?;
                whole.add(&grad.mul(0.5)?.keep_where(&tie)?)?.sum_to(shape)
            };
            Ok(smallvec![ctx.when(0, || share(lost[0], &shapes[0]))?, ctx.when(1, || share(lost[1], &shapes[1]))?])
        })
    }

    fn bound(&self, bound: &Rhs, dtype: DType) -> Result<Tensor> {
        match bound {
            Rhs::Tensor(t) => t.to_dtype(dtype),
            Rhs::Scalar(value) => Tensor::full((), *value, (dtype, self.device())),
        }
    }

    fn clamp_between(&self, low: &Tensor, high: &Tensor) -> Result<Tensor> {
        let out = no_grad(|| self.maximum(low)?.minimum(high))?;
        let shapes = [self, low, high].map(|t| *t.shape());
        record(out, "ClampBackward0", &[self, low, high], &[self, low, high], move |ctx| {
            let grad = ctx.grad()?;
            let mut grads: SmallVec<_> = smallvec![];
            for (input, (shape, share)) in shapes.iter().zip([share_of_x, share_of_low, share_of_high]).enumerate() {
                grads.push(ctx.when(input, || {
                    let [whole, half] = share(ctx)?;
                    grad.keep_where(&whole)?.add(&grad.mul(0.5)?.keep_where(&half)?)?.sum_to(shape)
                })?);
            }
            Ok(grads)
        })
    }
}

/// The share of the gradient that goes to the element: all of it inside the bounds and at NaN, half of it at one bound.
fn share_of_x(ctx: &Ctx<'_>) -> Result<[Tensor; 2]> {
    let (x, low, high) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?);
    let outside = x.lt(&low)?.logical_or(&x.gt(&high)?)?;
    let tie = x.eq(&low)?.logical_or(&x.eq(&high)?)?.logical_and(&low.lt(&high)?)?;
    let whole = outside.logical_or(&tie)?.logical_not()?;
    Ok([whole, tie])
}

fn share_of_low(ctx: &Ctx<'_>) -> Result<[Tensor; 2]> {
    let (x, low, high) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?);
    Ok([x.lt(&low)?.logical_and(&low.le(&high)?)?, x.eq(&low)?.logical_and(&low.lt(&high)?)?])
}

/// The share that goes to the upper bound. Crossed bounds give the upper one, whatever the element is.
fn share_of_high(ctx: &Ctx<'_>) -> Result<[Tensor; 2]> {
    let (x, low, high) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?);
    let above = x.gt(&high)?.logical_and(&low.le(&high)?)?;
    Ok([above.logical_or(&low.gt(&high)?)?, x.eq(&high)?.logical_and(&low.lt(&high)?)?])
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn gradients(tensors: &[&Tensor], y: &Tensor) -> Result<Vec<Vec<f32>>> {
        tensors.iter().for_each(|t| t.zero_grad());
        y.sum(())?.backward()?;
        tensors.iter().map(|t| t.grad().map_or(Ok(vec![]), |g| g.to_vec::<f32>())).collect()
    }

    #[test]
    fn numbers_pass_no_gradient_at_the_bounds() -> Result<()> {
        let x = Tensor::new(&[-2f32, -1., 0., 1., f32::NAN], Device::Cpu)?.requires_grad_(true)?;
        let y = x.clamp(-1, 1)?;
        assert_eq!(y.to_vec::<f32>()?[..4], [-1., -1., 0., 1.]);
        assert_eq!(y.grad_fn().unwrap().name(), "ClampBackward1");
        assert_eq!(gradients(&[&x], &y)?, [[0., 0., 1., 0., 0.]]);
        assert_eq!(gradients(&[&x], &x.clamp_min(-1)?)?, [[0., 0., 1., 1., 0.]]);
        assert_eq!(gradients(&[&x], &x.clamp_max(0.5)?)?, [[1., 1., 1., 0., 0.]]);
        assert_eq!(x.clamp(1, -1)?.to_vec::<f32>()?[..4], [-1.; 4]);
        let bound = Tensor::new(0f32, Device::Cpu)?.requires_grad_(true)?;
        assert_eq!(gradients(&[&x, &bound], &x.clamp_min(&bound)?)?, [vec![0., 0., 0.5, 1., 1.], vec![3.5]]);
        let i = Tensor::new(&[-3i64, 3], Device::Cpu)?;
        assert_eq!(i.clamp(-1.5, 2)?.to_vec::<f32>()?, [-1.5, 2.]);
        i.clamp_(-1, 2)?;
        assert_eq!(i.to_vec::<i64>()?, [-1, 2]);
        assert!(i.clamp_(-1.5, 2).is_err());
        let error =
            i.clamp(&Tensor::new(&[1i64, 2, 3], Device::Cpu)?, 2).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("clamp") && !error.contains("maximum"), "{error}");
        Ok(())
    }

    /// PyTorch's gradients for elements and bounds of 0, 1 and 2.
    #[test]
    fn tensors_share_at_ties() -> Result<()> {
        let leaf = |v: &[f32]| Tensor::new(v, Device::Cpu)?.requires_grad_(true);
        let x = leaf(&[0., 0., 1., 1., 2., 2., 0., 1.])?;
        let low = leaf(&[0., 1., 0., 1., 2., 1., 1., 2.])?;
        let high = leaf(&[0., 1., 1., 2., 1., 2., 0., 2.])?;
        let y = x.clamp(&low, &high)?;
        assert_eq!(y.to_vec::<f32>()?, [0., 1., 1., 1., 1., 2., 0., 2.]);
        assert_eq!(
            gradients(&[&x, &low, &high], &y)?,
            [
                [1., 0., 0.5, 0.5, 0., 0.5, 0., 0.],
                [0., 1., 0., 0.5, 0., 0., 0., 1.],
                [0., 0., 0.5, 0., 1., 0.5, 1., 0.]
            ]
        );
        Ok(())
    }
}
