//! Activation functions with parameters. (Those without are in the table of unary operations.)

use kiln_backend::{DType, Dim, Error, Result, Shape};
use kiln_derive::located;

use super::check;
use crate::{
    autocast::cast_operands,
    autograd::{Ctx, no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `x` where it is positive, `slope * x` elsewhere (PyTorch's default slope is 0.01).
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn leaky_relu(&self, slope: f64) -> Result<Tensor> {
        check::floats("leaky_relu", self)?;
        let out = no_grad(|| self.gt(0)?.where_cond(self, &self.mul(slope)?))?;
        let out = record(out, "LeakyReluBackward0", &[self], &[self], move |ctx| {
            let (grad, x) = (ctx.grad()?, ctx.saved(0)?);
            Ok(one(x.gt(0)?.where_cond(&grad, &grad.mul(slope)?)?))
        })?;
        Ok(out.described("leaky_relu", || [("slope", slope.into())]))
    }

    /// `x` where it is positive, `alpha * (exp(x) - 1)` elsewhere (Clevert et al., 2015; the default alpha is
    /// 1).
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn elu(&self, alpha: f64) -> Result<Tensor> {
        check::floats("elu", self)?;
        cast_operands("elu", [self], [], |[x], []| x.elu_no_autocast(alpha))
    }

    fn elu_no_autocast(&self, alpha: f64) -> Result<Tensor> {
        let out = no_grad(|| self.gt(0)?.where_cond(self, &self.expm1()?.mul(alpha)?))?;
        let out = record(out, "EluBackward0", &[self], &[self], move |ctx| {
            let (grad, x) = (ctx.grad()?, ctx.saved(0)?);
            // The gradient at NaN is NaN.
            let bent = exponent(ctx, &x, || x.ge(0))?.exp()?.mul(alpha)?.mul(&grad)?;
            Ok(one(x.gt(0)?.where_cond(&grad, &bent)?))
        })?;
        Ok(out.described("elu", || [("alpha", alpha.into())]))
    }

    /// `log(1 + exp(beta * x)) / beta`, and `x` itself where `beta * x` is above the threshold: PyTorch's
    /// `softplus(beta, threshold)`. [`softplus`](Tensor::softplus) is the case `beta = 1`.
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn softplus_beta(&self, beta: f64, threshold: f64) -> Result<Tensor> {
        check::floats("softplus_beta", self)?;
        cast_operands("softplus", [self], [], |[x], []| x.softplus_no_autocast(beta, threshold))
    }

    fn softplus_no_autocast(&self, beta: f64, threshold: f64) -> Result<Tensor> {
        let dtype = self.dtype();
        let out = no_grad(|| {
            let x = self.widened()?;
            let scaled = x.mul(beta)?;
            scaled.gt(threshold)?.where_cond(&x, &scaled.softplus()?.div(beta)?)?.to_dtype(dtype)
        })?;
        record(out, "SoftplusBackward0", &[self], &[self], move |ctx| {
            let (grad, scaled) = (ctx.grad()?, ctx.saved(0)?.widened()?.mul(beta)?);
            let bent = grad.widened()?.mul(&scaled.sigmoid()?)?.to_dtype(dtype)?;
            Ok(one(scaled.gt(threshold)?.where_cond(&grad, &bent)?))
        })
    }

    /// `alpha * (exp(x / alpha) - 1)` where `x` is not positive, else `x`: an [`elu`](Tensor::elu) whose slope is
    /// continuous (Barron, 2017).
    ///
    /// # Errors
    /// If the tensor is not floating-point, or alpha is 0.
    pub fn celu(&self, alpha: f64) -> Result<Tensor> {
        check::floats("celu", self)?;
        if alpha == 0.0 {
            return Err(Error::argument("celu", "alpha must not be 0".to_owned()));
        }
        cast_operands("celu", [self], [], |[x], []| x.celu_no_autocast(alpha))
    }

    fn celu_no_autocast(&self, alpha: f64) -> Result<Tensor> {
        let dtype = self.dtype();
        let out = no_grad(|| {
            let x = self.widened()?;
            x.gt(0)?.where_cond(&x, &x.div(alpha)?.expm1()?.mul(alpha)?)?.to_dtype(dtype)
        })?;
        record(out, "CeluBackward0", &[self], &[self], move |ctx| {
            let (grad, x) = (ctx.grad()?, ctx.saved(0)?.widened()?);
            let bent = grad
                .widened()?
                .mul(&exponent(ctx, &x, || x.lt(0)?.logical_not())?.div(alpha)?.exp()?)?
                .to_dtype(dtype)?;
            // NaN passes the gradient unchanged.
            Ok(one(x.le(0)?.where_cond(&bent, &grad)?))
        })
    }

    /// `min` below `min`, `max` above `max`, else `x` (PyTorch's defaults are -1 and 1); the gradient at the bounds is 0.
    ///
    /// # Errors
    /// If the tensor is `bool`, or `min` is above `max`.
    pub fn hardtanh(&self, min: f64, max: f64) -> Result<Tensor> {
        if self.dtype() == DType::Bool {
            return Err(Error::dtype("hardtanh", DType::Bool, "it takes numbers; convert with `to_dtype`"));
        }
        if min.is_nan() || max.is_nan() || min > max {
            return Err(Error::argument("hardtanh", format!("the bounds {min} and {max} are not in order")));
        }
        if self.dtype().is_float() {
            let out = no_grad(|| self.clamp(min, max))?;
            return record(out, "HardtanhBackward0", &[self], &[self], move |ctx| {
                let x = ctx.saved(0)?;
                Ok(one(ctx.grad()?.masked_fill(&x.le(min)?.logical_or(&x.ge(max)?)?, 0)?))
            });
        }
        // The bounds are truncated to integers as well, as in PyTorch.
        self.clamp(min as i64, max as i64)
    }

    /// 0 where `|x|` is at most `lambda`, else `x` (PyTorch's default is 0.5).
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn hardshrink(&self, lambda: f64) -> Result<Tensor> {
        check::floats("hardshrink", self)?;
        let out = no_grad(|| self.masked_fill(&self.abs()?.le(lambda)?, 0))?;
        self.record_shrink(out, "HardshrinkBackward0", lambda)
    }

    /// `x` moved toward 0 by `lambda`; 0 where `|x|` is at most `lambda` (PyTorch's default is 0.5).
    ///
    /// # Errors
    /// If the tensor is not floating-point, or `lambda` is negative.
    pub fn softshrink(&self, lambda: f64) -> Result<Tensor> {
        check::floats("softshrink", self)?;
        if lambda.is_nan() || lambda < 0.0 {
            return Err(Error::argument("softshrink", format!("lambda is {lambda}, and must not be negative")));
        }
        let out = no_grad(|| {
            let x = self.widened()?;
            let (above, below) = (x.sub(lambda)?, x.add(lambda)?);
            let moved = x.gt(0)?.where_cond(&above, &below)?;
            moved.masked_fill(&x.abs()?.le(lambda)?, 0)?.to_dtype(self.dtype())
        })?;
        self.record_shrink(out, "SoftshrinkBackward0", lambda)
    }

    /// Records a shrink function, whose gradient passes where `|x|` is above `lambda`.
    fn record_shrink(&self, out: Tensor, node: &'static str, lambda: f64) -> Result<Tensor> {
        record(out, node, &[self], &[self], move |ctx| {
            Ok(one(ctx.grad()?.masked_fill(&ctx.saved(0)?.abs()?.le(lambda)?, 0)?))
        })
    }

    /// `value` where `x` is at most `threshold`, else `x`. For integers both numbers are truncated.
    ///
    /// # Errors
    /// If the tensor is `bool`.
    pub fn threshold(&self, threshold: f64, value: f64) -> Result<Tensor> {
        if self.dtype() == DType::Bool {
            return Err(Error::dtype("threshold", DType::Bool, "it takes numbers; convert with `to_dtype`"));
        }
        if !self.dtype().is_float() {
            return self.masked_fill(&self.le(threshold as i64)?, value as i64);
        }
        let out = no_grad(|| self.masked_fill(&self.le(threshold)?, value))?;
        record(out, "ThresholdBackward0", &[self], &[self], move |ctx| {
            Ok(one(ctx.grad()?.masked_fill(&ctx.saved(0)?.le(threshold)?, 0)?))
        })
    }

    /// The gated linear unit (Dauphin et al., 2016): the first half along a dimension times the sigmoid of the second.
    ///
    /// # Errors
    /// If the tensor is not floating-point or has no dimensions, the dimension is out of range, or its extent is odd.
    pub fn glu(&self, dim: impl Dim) -> Result<Tensor> {
        check::floats("glu", self)?;
        let dim = dim.resolve("glu", self.rank())?;
        if self.rank() == 0 || !self.dims()[dim].is_multiple_of(2) {
            return Err(Error::shape("glu", "an even extent, to be halved", self.shape()));
        }
        let half = self.dims()[dim] / 2;
        let (value, gate) = (self.narrow(dim, 0, half)?, self.narrow(dim, half, half)?);
        value.widened()?.mul(&gate.widened()?.sigmoid()?)?.to_dtype(self.dtype())
    }

    /// `x` where it is positive, `weight * x` elsewhere (He et al., 2015): a [`leaky_relu`](Tensor::leaky_relu) with a
    /// learned slope. The weight has one element, or one for each index of dimension 1 (of `[N, C, …]`).
    ///
    /// # Errors
    /// If the tensor is not floating-point, the weight has another size, or dtypes or devices differ.
    pub fn prelu(&self, weight: &Tensor) -> Result<Tensor> {
        cast_operands("prelu", [self, weight], [], |[x, weight], []| x.prelu_no_autocast(weight))
    }

    fn prelu_no_autocast(&self, weight: &Tensor) -> Result<Tensor> {
        check::floats("prelu", self)?;
        check::same_kind("prelu", self, &[weight])?;
        let channels = if self.rank() < 2 { 1 } else { self.dims()[1] };
        if weight.rank() > 1 || !(weight.numel() == 1 || weight.numel() == channels) {
            return Err(Error::shape("prelu", "a weight of one element, or one for each channel", weight.shape()));
        }
        let mut broadcast = Shape::new(&vec![1; self.rank()])?;
        if weight.numel() > 1 {
            broadcast = broadcast.with_dim(1, channels)?;
        }
        self.gt(0)?.where_cond(self, &self.mul(&weight.reshape(broadcast)?)?)
    }

    /// While training, multiplies each element of `x` that is not positive by a number drawn between `lower` and
    /// `upper` (Xu et al., 2015; PyTorch's defaults are 1/8 and 1/3); otherwise a [`leaky_relu`](Tensor::leaky_relu)
    /// with the mean slope.
    ///
    /// # Errors
    /// If the tensor is not floating-point, or `lower` is above `upper`.
    pub fn rrelu(&self, lower: f64, upper: f64, training: bool) -> Result<Tensor> {
        check::floats("rrelu", self)?;
        if lower.is_nan() || upper.is_nan() || lower > upper {
            return Err(Error::argument("rrelu", format!("the slopes {lower} and {upper} are not in order")));
        }
        if !training {
            return self.leaky_relu(f64::midpoint(lower, upper));
        }
        let slope = no_grad(|| {
            let slope = self.empty_like()?;
            slope.uniform_(lower, upper)?;
            slope.masked_fill(&self.gt(0)?, 1)
        })?;
        self.mul(&slope)
    }
}

/// The exponent of a function that is exponential only below 0. If its gradient will be differentiated, `unused` exponents
/// become 0: where one overflows, its slope would be infinite, and the product with the zero gradient there NaN.
fn exponent(ctx: &Ctx<'_>, x: &Tensor, unused: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    if ctx.create_graph { x.masked_fill(&unused()?, 0) } else { Ok(x.clone()) }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn below_zero_they_bend() -> Result<()> {
        let x = Tensor::new(&[-2f32, 0., 3.], Device::Cpu)?.requires_grad_(true)?;
        assert_eq!(x.leaky_relu(0.5)?.to_vec::<f32>()?, [-1., 0., 3.]);
        x.leaky_relu(0.5)?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0.5, 0.5, 1.]);
        x.zero_grad();
        let y = x.elu(1.5)?;
        assert!((y.i(0)?.item::<f32>()? + 1.297).abs() < 1e-3);
        y.sum(())?.backward()?;
        let grad = x.grad().unwrap().to_vec::<f32>()?;
        assert!((grad[0] - 0.203).abs() < 1e-3 && grad[1..] == [1.5, 1.]);
        Ok(())
    }

    #[test]
    fn shrinking_and_thresholds() -> Result<()> {
        let x = Tensor::new(&[-2f32, -0.5, 0., 0.5, 3., f32::NAN], Device::Cpu)?;
        assert_eq!(x.hardshrink(0.5)?.to_vec::<f32>()?[..5], [-2., 0., 0., 0., 3.]);
        assert_eq!(x.softshrink(0.5)?.to_vec::<f32>()?[..5], [-1.5, 0., 0., 0., 2.5]);
        assert_eq!(x.threshold(0.5, 7.)?.to_vec::<f32>()?[..5], [7., 7., 7., 7., 3.]);
        for y in [x.hardshrink(0.5)?, x.softshrink(0.5)?, x.threshold(0.5, 7.)?, x.hardtanh(-1., 1.)?] {
            assert!(y.i(5)?.item::<f32>()?.is_nan());
        }
        assert!(x.softshrink(-0.1).is_err() && x.hardtanh(1., -1.).is_err() && x.celu(0.).is_err());
        Ok(())
    }

    /// One slope for all, or one per channel; other numbers of slopes are errors.
    #[test]
    fn prelu_has_a_slope_a_channel() -> Result<()> {
        let x = Tensor::new(&[[[-1f32], [-2.]], [[3.], [-4.]]], Device::Cpu)?;
        let slopes = Tensor::new(&[0.5f32, 0.25], Device::Cpu)?.requires_grad_(true)?;
        let y = x.prelu(&slopes)?;
        assert_eq!(y.to_vec::<f32>()?, [-0.5, -0.5, 3., -1.]);
        y.sum(())?.backward()?;
        assert_eq!(slopes.grad().unwrap().to_vec::<f32>()?, [-1., -6.]);
        assert_eq!(x.prelu(&slopes.detach().narrow(0, 0, 1)?)?.to_vec::<f32>()?, [-0.5, -1., 3., -2.]);
        assert!(x.prelu(&Tensor::zeros(3, Device::Cpu)?).is_err());
        assert!(Tensor::zeros((), Device::Cpu)?.prelu(&slopes).is_err());
        Ok(())
    }

    #[test]
    fn rrelu_draws_slopes_between_its_bounds() -> Result<()> {
        let x = Tensor::full(1000, -1f32, Device::Cpu)?.requires_grad_(true)?;
        let y = x.rrelu(0.25, 0.5, true)?;
        let drawn = y.to_vec::<f32>()?;
        assert!(drawn.iter().all(|y| (-0.5..=-0.25).contains(y)));
        let mean = drawn.iter().sum::<f32>() / 1000.0;
        assert!((mean + 0.375).abs() < 0.02, "{mean}");
        y.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().neg()?.to_vec::<f32>()?, drawn);
        assert_eq!(x.rrelu(0.25, 0.5, false)?.i(0)?.item::<f32>()?, -0.375);
        assert_eq!(x.neg()?.rrelu(0.25, 0.5, true)?.i(0)?.item::<f32>()?, 1.0);
        assert!(x.rrelu(0.5, 0.25, true).is_err());
        Ok(())
    }

    #[test]
    fn glu_halves_an_even_dimension() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2., 0., 0.]], Device::Cpu)?;
        assert_eq!(x.glu(-1)?.to_vec::<f32>()?, [0.5, 1.]);
        assert!(x.glu(0).is_err() && Tensor::zeros((), Device::Cpu)?.glu(0).is_err());
        Ok(())
    }
}
