//! Instance normalization: batch normalization with each sample's channels as channels of their own.

use kiln_backend::{Error, MAX_RANK, Result};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{
    batch_norm::Running,
    check,
    norm::{affine_dtype, vectors},
};
use crate::{
    autocast::{cast_operands, like},
    autograd::no_grad,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// Normalizes each channel of each sample of `[N, C, …]`: subtracts its mean, divides by `sqrt(variance + eps)`, then
    /// scales by `weight` and shifts by `bias` (`[C]`; 1 and 0 if not given)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.instance_norm.html>).
    ///
    /// With `use_input_stats`, mean and variance are those of the channel, and the running ones, if given, are updated with
    /// weight `momentum` by the average over the samples; otherwise the running ones are used.
    ///
    /// # Errors
    /// If the tensor is not floating-point or not 2-D to 5-D, a vector is not `[C]`, a channel has only one value,
    /// there are no running statistics where they are used, or dtypes or devices differ.
    pub fn instance_norm(
        &self,
        running: Option<Running<'_>>,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        use_input_stats: bool,
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor> {
        // The result has the input's dtype, whatever that of scale and shift is.
        let dtype = affine_dtype(self, &[weight, bias]);
        let (weight, bias) = (like(weight, dtype)?, like(bias, dtype)?);
        cast_operands("instance_norm", [self], [weight.as_ref(), bias.as_ref()], |[x], [weight, bias]| {
            x.instance_norm_no_autocast(running, weight, bias, use_input_stats, momentum, eps)
        })
    }

    fn instance_norm_no_autocast(
        &self,
        running: Option<Running<'_>>,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        use_input_stats: bool,
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor> {
        const OP: &str = "instance_norm";
        check::floats(OP, self)?;
        if !(2..=5).contains(&self.rank()) {
            return Err(Error::shape(OP, "[N, C, …] with 2 to 5 dimensions", self.shape()));
        }
        if !use_input_stats {
            if running.is_none() {
                return Err(Error::argument(OP, "there are no running statistics to normalize by"));
            }
            return self.batch_norm(weight, bias, running, false, momentum, eps);
        }
        let (n, c) = (self.dims()[0], self.dims()[1]);
        let dtype = affine_dtype(self, &[weight, bias]);
        let each: usize = self.dims()[2..].iter().product();
        if each == 1 {
            return Err(Error::shape(OP, "more than one value per channel and sample", self.shape()));
        }
        let Some(Running { mean, var }) = running else {
            return self.to_dtype(dtype)?.group_norm(c.max(1), weight, bias, eps)?.to_dtype(self.dtype());
        };
        vectors(OP, self, dtype, c, &[weight, bias])?;
        // The steps below would each round to half precision.
        let channels = self.widened()?.reshape([1, n * c, each])?;
        let of_samples = |t: &Tensor| {
            if *t.shape() != [c] {
                return Err(Error::shape(OP, format!("running statistics of {c} channels"), t.shape()));
            }
            no_grad(|| t.repeat(n))
        };
        let (means, vars) = (of_samples(mean)?, of_samples(var)?);
        let moved = Running { mean: &means, var: &vars };
        let mut out = channels.batch_norm(None, None, Some(moved), true, momentum, eps)?.reshape(self.dims())?;
        if n > 0 {
            no_grad(|| {
                mean.copy_(&means.reshape([n, c])?.mean(0)?)?;
                var.copy_(&vars.reshape([n, c])?.mean(0)?)
            })?;
        }
        let mut dims: SmallVec<[usize; MAX_RANK]> = smallvec![1; self.rank() - 1];
        dims[0] = c;
        if let Some(weight) = weight {
            out = out.mul(&weight.widened()?.reshape(&dims[..])?)?;
        }
        if let Some(bias) = bias {
            out = out.add(&bias.widened()?.reshape(&dims[..])?)?;
        }
        out.to_dtype(self.dtype())
    }
}
