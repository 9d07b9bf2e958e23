//! Random draws whose probabilities are given by tensors: `bernoulli`, `multinomial`. (Random tensors of a given shape
//! are made in `creation`.)

use kiln_backend::{Arguments, DType, Distribution, Error, RandomArgs, Result};
use kiln_derive::located;

use super::check;
use crate::{
    autograd::{no_grad, one, record},
    creation::take,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// 1 with a probability equal to the element, else 0. The gradient is 0.
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn bernoulli(&self) -> Result<Tensor> {
        check::floats("bernoulli", self)?;
        let out = no_grad(|| {
            // Drawn with at least 24 bits: half precision would miss small probabilities.
            let wide = self.dtype().accumulator();
            let draws = Tensor::rand(self.shape(), self.options().dtype(wide))?;
            draws.lt(self.to_dtype(wide)?)?.to_dtype(self.dtype())
        })?;
        let out = record(out, "BernoulliBackward0", &[self], &[], |ctx| Ok(one(ctx.grad()?.zeros_like()?)))?;
        Ok(out.described("bernoulli", || []))
    }

    /// Sets each element to 1 with probability `p`, else to 0, in place. Any dtype.
    ///
    /// # Errors
    /// If `p` is not in `0..=1`, or the tensor is a leaf that requires gradients while recording is on.
    pub fn bernoulli_(&self, p: f64) -> Result<()> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::argument("bernoulli_", format!("{p} is not a probability")));
        }
        let distribution = Distribution::Bernoulli { p };
        let state = take(self.numel(), distribution.words(self.dtype()));
        self.overwrite("bernoulli_", |backend, out| backend.random(RandomArgs { distribution, state, out }.checked()?))
    }

    /// Draws `count` indices (`i64`) from each row of a matrix of weights, or from a vector of them, with
    /// probabilities in proportion to the weights. Without replacement no index is drawn twice. Waits for the
    /// device to check the weights.
    ///
    /// # Errors
    /// If the tensor is not a floating-point vector or matrix; a weight is negative or not finite; a row has no
    /// positive weight or, without replacement, fewer than `count`; or `count` is 0.
    pub fn multinomial(&self, count: usize, replacement: bool) -> Result<Tensor> {
        const OP: &str = "multinomial";
        check::floats(OP, self)?;
        if !(1..=2).contains(&self.rank()) {
            return Err(Error::shape(OP, "a vector or a matrix of weights", self.shape()));
        }
        if count == 0 {
            return Err(Error::argument(OP, "at least one index must be drawn"));
        }
        let (last, n) = (self.rank() - 1, self.dims()[self.rank() - 1]);
        let shape = self.shape().with_dim(last, count)?;
        if shape.numel() == 0 {
            return Tensor::zeros(shape, self.options().dtype(DType::I64));
        }
        no_grad(|| {
            let weights = self.detach().to_dtype(DType::F64)?;
            if n == 0 || !weights.ge(0)?.logical_and(&weights.isfinite()?)?.all(())?.item::<bool>()? {
                return Err(Error::argument(OP, "weights must be finite, not negative, and at least one"));
            }
            let positive = weights.gt(0)?.sum(-1)?.amin(())?.item::<i64>()?;
            let needed = if replacement { 1 } else { i64::try_from(count).unwrap_or(i64::MAX) };
            if positive < needed {
                let message = format!("a row has {positive} positive weights, at least {needed} are needed");
                return Err(Error::argument(OP, message));
            }
            let options = weights.options();
            if replacement {
                let sums = weights.cumsum(-1)?;
                let draws = Tensor::rand(shape, options)?.mul(&sums.narrow(-1, n - 1, 1)?)?;
                // Rounding may push a draw up to the total.
                return sums.searchsorted(&draws, true)?.clamp_max(n - 1);
            }
            // The first `count` of exponential clocks with these rates to ring (Efraimidis & Spirakis, 2006).
            let clocks = Tensor::rand(self.shape(), options)?.neg()?.log1p()?.neg()?.div(&weights)?;
            Ok(clocks.topk(count, -1, false)?.1)
        })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::{DType, Result};

    #[test]
    fn bernoulli_follows_its_probabilities() -> Result<()> {
        let p = Tensor::full([4000], 0.25, Device::Cpu)?.requires_grad_(true)?;
        let y = p.bernoulli()?;
        let mean = y.mean(())?.item::<f64>()?;
        assert!((0.2..0.3).contains(&mean), "{mean}");
        y.sum(())?.backward()?;
        assert_eq!(p.grad().unwrap().sum(())?.item::<f32>()?, 0.);
        let coins = Tensor::zeros([4000], DType::Bool)?;
        coins.bernoulli_(0.75)?;
        assert!((2800..3200).contains(&coins.sum(())?.item::<i64>()?));
        assert!(coins.bernoulli_(1.5).is_err());
        Ok(())
    }

    #[test]
    fn multinomial_follows_its_weights() -> Result<()> {
        let w = Tensor::new(&[[0f32, 1., 3., 0.], [2., 0., 0., 2.]], Device::Cpu)?;
        let draws = w.multinomial(4000, true)?;
        assert_eq!(draws.dims(), [2, 4000]);
        let twos = draws.i(0)?.eq(2)?.sum(())?.item::<i64>()?;
        assert!((2850..3150).contains(&twos), "{twos}");
        assert_eq!(draws.i(0)?.eq(0)?.logical_or(&draws.i(0)?.eq(3)?)?.sum(())?.item::<i64>()?, 0);
        let pairs = w.multinomial(2, false)?;
        assert_eq!(pairs.sort(-1, false)?.0.to_vec::<i64>()?, [1, 2, 0, 3]);
        assert!(w.multinomial(3, false).is_err() && w.multinomial(0, true).is_err());
        assert!(w.neg()?.multinomial(1, true).is_err() && w.mul(0)?.multinomial(1, true).is_err());
        assert!(Tensor::new(1f32, Device::Cpu)?.multinomial(1, true).is_err());
        Ok(())
    }
}
