//! Special functions that are composed of those of the tables: `xlogy`, `entr`, `sinc`, `logit`, `ndtr`, `mvlgamma`.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use kiln_backend::{DType, Error, Result, Scalar};
use kiln_derive::located;

use super::{elementwise::floats, rhs::Rhs};
use crate::{
    autograd::{no_grad, one, record},
    calc,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `self · log(other)`, 0 where this tensor is 0 and the other is not NaN
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.xlogy.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn xlogy(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (x, y, dtype) = floats(self, &other.into())?;
        product_with_log(&x, &y, LogOf::Itself)?.to_dtype(dtype)
    }

    /// `self · log(1 + other)`, 0 where this tensor is 0 and the other is not NaN
    /// (<https://docs.pytorch.org/docs/stable/special.html#torch.special.xlog1py>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn xlog1py(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (x, y, dtype) = floats(self, &other.into())?;
        product_with_log(&x, &y, LogOf::OnePlus)?.to_dtype(dtype)
    }

    /// `-x · log(x)`: 0 at 0, negative infinity below it
    /// (<https://docs.pytorch.org/docs/stable/special.html#torch.special.entr>).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn entr(&self) -> Result<Tensor> {
        let (x, _, dtype) = floats(self, &Rhs::Scalar(Scalar::Int(0)))?;
        let out = no_grad(|| {
            let out = x.eq(0.0)?.where_cond(0.0, &x.mul(&x.log()?)?.neg()?)?;
            x.lt(0.0)?.where_cond(f64::NEG_INFINITY, &out)
        })?;
        let out = record(out, "SpecialEntrBackward0", &[&x], &[&x], |ctx| {
            Ok(one(ctx.grad()?.mul(&ctx.saved(0)?.log()?.add(1.0)?.neg()?)?))
        })?;
        out.to_dtype(dtype)
    }

    /// The logarithm of the multivariate gamma function of dimension `p`
    /// (<https://docs.pytorch.org/docs/stable/special.html#torch.special.multigammaln>).
    ///
    /// # Errors
    /// If `p` is 0.
    pub fn mvlgamma(&self, p: usize) -> Result<Tensor> {
        if p == 0 {
            return Err(Error::argument("mvlgamma", "p is 0, but there are 1 or more dimensions"));
        }
        let (x, _, dtype) = floats(self, &Rhs::Scalar(Scalar::Int(0)))?;
        let mut sum = x.lgamma()?;
        for i in 1..p {
            sum = sum.add(&x.sub(0.5 * i as f64)?.lgamma()?)?;
        }
        sum.add(0.25 * (p * (p - 1)) as f64 * PI.ln())?.to_dtype(dtype)
    }

    /// `sin(π x) / (π x)`, 1 at 0 (<https://docs.pytorch.org/docs/stable/generated/torch.sinc.html>).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn sinc(&self) -> Result<Tensor> {
        let (x, _, dtype) = floats(self, &Rhs::Scalar(Scalar::Int(0)))?;
        let out = no_grad(|| {
            let angle = x.mul(PI)?;
            x.eq(0.0)?.where_cond(1.0, &angle.sin()?.div(&angle)?)
        })?;
        let out = record(out, "SincBackward0", &[&x], &[&x], |ctx| {
            let grad = ctx.grad()?;
            let slope = sinc_slope(&ctx.saved(0)?.to_dtype(DType::F64)?)?;
            Ok(one(grad.to_dtype(DType::F64)?.mul(&slope)?.to_dtype(grad.dtype())?))
        })?;
        out.to_dtype(dtype)
    }

    /// `log(x / (1 - x))`, the inverse of the sigmoid; with `eps`, of `x` between `eps` and `1 - eps`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.logit.html>). The gradient outside of these bounds is 0, and
    /// without `eps` NaN outside of 0 and 1.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn logit(&self, eps: Option<f64>) -> Result<Tensor> {
        let (x, _, dtype) = floats(self, &Rhs::Scalar(Scalar::Int(0)))?;
        let out = no_grad(|| {
            let x = match eps {
                // The lower bound is applied first, also where it is above the upper one.
                Some(eps) => x.lt(eps)?.where_cond(eps, &x.gt(1.0 - eps)?.where_cond(1.0 - eps, &x)?)?,
                None => x.clone(),
            };
            x.div(&x.rsub(1.0)?)?.log()
        })?;
        let out = record(out, "LogitBackward0", &[&x], &[&x], move |ctx| {
            let (grad, x) = (ctx.grad()?, ctx.saved(0)?);
            let (low, high) = eps.map_or((0.0, 1.0), |eps| (eps, 1.0 - eps));
            let outside = no_grad(|| x.lt(low)?.logical_or(&x.gt(high)?))?;
            let slope = grad.div(&x.mul(&x.rsub(1.0)?)?)?;
            Ok(one(outside.where_cond(if eps.is_some() { 0.0 } else { f64::NAN }, &slope)?))
        })?;
        out.to_dtype(dtype)
    }

    /// The distribution function of the standard normal distribution, `erfc(-x / √2) / 2`
    /// (<https://docs.pytorch.org/docs/stable/special.html#torch.special.ndtr>).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn ndtr(&self) -> Result<Tensor> {
        let (x, _, dtype) = floats(self, &Rhs::Scalar(Scalar::Int(0)))?;
        x.mul(-FRAC_1_SQRT_2)?.erfc()?.mul(0.5)?.to_dtype(dtype)
    }
}

/// The first coefficients of the series of the derivative of `sinc`.
const SINC_SERIES: [f64; 3] = [-PI * PI / 3.0, PI * PI * PI * PI / 30.0, -PI * PI * PI * PI * PI * PI / 840.0];

/// The derivative of `sinc`, in `f64`, because its terms cancel: near 0 by its series.
fn sinc_slope(x: &Tensor) -> Result<Tensor> {
    let near = no_grad(|| x.abs()?.lt(0.01))?;
    let small = near.where_cond(x, 0.0)?;
    let square = small.square()?;
    let [linear, cubic, fifth] = SINC_SERIES;
    let series = calc!(small * (square * (square * fifth + cubic) + linear))?;
    let large = near.where_cond(1.0, x)?;
    let angle = large.mul(PI)?;
    let quotient = calc!((angle * angle.cos() - angle.sin()?) / (large * angle))?;
    near.where_cond(&series, &quotient)
}

/// The logarithms of `xlogy` and `xlog1py`.
#[derive(Clone, Copy)]
enum LogOf {
    Itself,
    OnePlus,
}

impl LogOf {
    fn log(self, y: &Tensor) -> Result<Tensor> {
        match self {
            LogOf::Itself => y.log(),
            LogOf::OnePlus => y.log1p(),
        }
    }

    /// What the logarithm is of.
    fn argument(self, y: &Tensor) -> Result<Tensor> {
        match self {
            LogOf::Itself => Ok(y.clone()),
            LogOf::OnePlus => y.add(1.0),
        }
    }
}

/// `x · log(y)`, 0 where `x` is 0 and `y` is not NaN. Where the logarithm is not finite either, the gradient of `x` is 0.
fn product_with_log(x: &Tensor, y: &Tensor, of: LogOf) -> Result<Tensor> {
    let out = no_grad(|| {
        let zero = x.eq(0.0)?.logical_and(&y.eq(y)?)?;
        zero.where_cond(0.0, &x.mul(&of.log(y)?)?)
    })?;
    let node = match of {
        LogOf::Itself => "XlogyBackward0",
        LogOf::OnePlus => "SpecialXlog1PyBackward0",
    };
    let shapes = [*x.shape(), *y.shape()];
    record(out, node, &[x, y], &[x, y], move |ctx| {
        let (grad, x, y) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
        let argument = of.argument(&y)?;
        let of_x = ctx.when(0, || {
            let undefined = no_grad(|| x.eq(0.0)?.logical_and(&argument.le(0.0)?))?;
            undefined.where_cond(0.0, &product_with_log(&grad, &y, of)?)?.sum_to(&shapes[0])
        })?;
        Ok(smallvec::smallvec![of_x, ctx.when(1, || grad.mul(&x)?.div(&argument)?.sum_to(&shapes[1]))?])
    })
}
