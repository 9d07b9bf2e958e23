//! Element-wise operations that are composed of those of the tables: `logaddexp`, `xlogy`, `hypot`, `frexp`, `logit`, ….

use std::f64::consts::{LN_2, PI};

use kiln_backend::{DType, Error, Result, Scalar};
use kiln_derive::located;

use super::{check, promotion::result_type, rhs::Rhs};
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

const TWO_TO_54: f64 = (1u64 << 54) as f64;

/// Operands as tensors of the type that floats are computed in, and the dtype of the result.
fn floats(a: &Tensor, b: &Rhs) -> Result<(Tensor, Tensor, DType)> {
    let common = result_type(&[&Rhs::from(a), b]);
    let dtype = if common.is_float() { common } else { DType::F32 };
    let b = match b {
        Rhs::Tensor(tensor) => tensor.clone(),
        Rhs::Scalar(number) => Tensor::full((), *number, a.options().dtype(dtype))?,
    };
    Ok((a.to_dtype(dtype)?.widened()?, b.to_dtype(dtype)?.widened()?, dtype))
}

/// Whether the sign bit is set; false for NaN.
fn negative(x: &Tensor) -> Result<Tensor> {
    if !x.dtype().is_float() {
        return x.lt(0);
    }
    // The two zeros differ in their reciprocals.
    x.lt(0.0)?.logical_or(&x.eq(0.0)?.logical_and(&x.reciprocal()?.lt(0.0)?)?)
}

#[located]
impl Tensor {
    /// `log(exp(self) + exp(other))`, without overflow
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.logaddexp.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn logaddexp(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (a, b, dtype) = floats(self, &other.into())?;
        let out = no_grad(|| {
            let (larger, difference) = (a.maximum(&b)?, a.sub(&b)?.abs()?.neg()?);
            let sum = larger.add(&difference.exp()?.log1p()?)?;
            // The difference of equal infinities is NaN.
            a.eq(&b)?.logical_and(&a.isinf()?)?.where_cond(&a, &sum)
        })?;
        let (shape_a, shape_b) = (*a.shape(), *b.shape());
        let out = record(out, "LogaddexpBackward0", &[&a, &b], &[&a, &b], move |ctx| {
            let (grad, difference) = (ctx.grad()?, ctx.saved(0)?.sub(&ctx.saved(1)?)?);
            let share = |difference: &Tensor| {
                let share = difference.sigmoid()?;
                difference.isnan()?.logical_and(&grad.isfinite()?)?.where_cond(0.5, &share)
            };
            Ok(smallvec::smallvec![
                ctx.when(0, || grad.mul(&share(&difference)?)?.sum_to(&shape_a))?,
                ctx.when(1, || grad.mul(&share(&difference.neg()?)?)?.sum_to(&shape_b))?
            ])
        })?;
        out.to_dtype(dtype)
    }

    /// `log2(2^self + 2^other)`, without overflow
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.logaddexp2.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn logaddexp2(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (a, b, dtype) = floats(self, &other.into())?;
        a.mul(LN_2)?.logaddexp(&b.mul(LN_2)?)?.div(LN_2)?.to_dtype(dtype)
    }

    /// `self · log(other)`, 0 where this tensor is 0 and the other is not NaN
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.xlogy.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn xlogy(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (x, y, dtype) = floats(self, &other.into())?;
        product_with_log(&x, &y, &y.le(0.0)?, Tensor::log)?.to_dtype(dtype)
    }

    /// `self · log(1 + other)`, 0 where this tensor is 0 and the other is not NaN
    /// (<https://docs.pytorch.org/docs/stable/special.html#torch.special.xlog1py>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn xlog1py(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (x, y, dtype) = floats(self, &other.into())?;
        product_with_log(&x, &y, &y.le(-1.0)?, Tensor::log1p)?.to_dtype(dtype)
    }

    /// `-x · log(x)`: 0 at 0, negative infinity below it
    /// (<https://docs.pytorch.org/docs/stable/special.html#torch.special.entr>).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn entr(&self) -> Result<Tensor> {
        let (x, _, dtype) = floats(self, &Rhs::Scalar(Scalar::Int(0)))?;
        let zero = x.eq(0.0)?;
        let safe = zero.where_cond(1.0, &x)?;
        let out = zero.where_cond(0.0, &safe.mul(&safe.log()?)?.neg()?)?;
        x.lt(0.0)?.where_cond(f64::NEG_INFINITY, &out)?.to_dtype(dtype)
    }

    /// `sqrt(self² + other²)`, without overflow
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.hypot.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn hypot(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (a, b, dtype) = floats(self, &other.into())?;
        let out = no_grad(|| {
            let (x, y) = (a.abs()?, b.abs()?);
            let (larger, smaller) = (x.maximum(&y)?, x.minimum(&y)?);
            let ratio = smaller.div(&larger)?;
            let length = larger.mul(&ratio.square()?.add(1.0)?.sqrt()?)?;
            let length = larger.eq(0.0)?.where_cond(&larger, &length)?;
            x.isinf()?.logical_or(&y.isinf()?)?.where_cond(f64::INFINITY, &length)
        })?;
        let (shape_a, shape_b, result) = (*a.shape(), *b.shape(), out.clone());
        let out = record(out, "HypotBackward0", &[&a, &b], &[&a, &b, &result], move |ctx| {
            let (grad, out) = (ctx.grad()?, ctx.saved(2)?);
            let toward = |side: &Tensor| grad.mul(&side.div(&out)?);
            Ok(smallvec::smallvec![
                ctx.when(0, || toward(&ctx.saved(0)?)?.sum_to(&shape_a))?,
                ctx.when(1, || toward(&ctx.saved(1)?)?.sum_to(&shape_b))?
            ])
        })?;
        out.to_dtype(dtype)
    }

    /// The magnitude of this tensor with the sign of the other, also of its zeros
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.copysign.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn copysign(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let (x, sign, dtype) = floats(self, &other.into())?;
        let out = no_grad(|| {
            let magnitude = x.abs()?;
            negative(&sign)?.where_cond(&magnitude.neg()?, &magnitude)
        })?;
        let shapes = [*x.shape(), *sign.shape()];
        let result = out.clone();
        let out = record(out, "CopysignBackward0", &[&x, &sign], &[&x, &result], move |ctx| {
            let (grad, x, out) = (ctx.grad()?, ctx.constant(0)?, ctx.constant(1)?);
            // 0 where the tensor is 0.
            let slope = no_grad(|| x.sign()?.mul(&out.sign()?))?;
            Ok(smallvec::smallvec![
                ctx.when(0, || grad.mul(&slope)?.sum_to(&shapes[0]))?,
                ctx.when(1, || Tensor::zeros(shapes[1], grad.options()))?
            ])
        })?;
        out.to_dtype(dtype)
    }

    /// Whether the sign bit is set, also of negative zero
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.signbit.html>). It is false for NaN.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn signbit(&self) -> Result<Tensor> {
        no_grad(|| negative(&self.detach()))
    }

    /// 0 below 0, 1 above it, and at 0 the element of `values`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.heaviside.html>). It has no gradient.
    ///
    /// # Errors
    /// If the shapes do not broadcast, or dtypes or devices differ.
    pub fn heaviside(&self, values: &Tensor) -> Result<Tensor> {
        check::same_kind("heaviside", self, &[values])?;
        no_grad(|| {
            let x = self.detach();
            x.eq(0)?.where_cond(&values.detach(), &x.gt(0)?.to_dtype(x.dtype())?)
        })
    }

    /// `self · 2^other` (<https://docs.pytorch.org/docs/stable/generated/torch.ldexp.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn ldexp(&self, other: &Tensor) -> Result<Tensor> {
        cast_operands("ldexp", [self, other], [], |[x, other], []| x.mul(&other.rpow(2.0)?))
    }

    /// The mantissa, of a size from 1/2 to 1, and the exponent (`i32`) of each number: it is their `ldexp`. Of 0, infinity and
    /// NaN, the mantissa is the number itself, and the exponent 0
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.frexp.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn frexp(&self) -> Result<(Tensor, Tensor)> {
        check::floats("frexp", self)?;
        // In `f64`, whose range is wide enough for the exponents of all subnormal numbers but its own.
        let (mantissa, exponent) = no_grad(|| -> Result<_> {
            let x = self.detach().to_dtype(DType::F64)?;
            let tiny = x.abs()?.lt(f64::MIN_POSITIVE)?;
            let lifted = tiny.where_cond(&x.mul(TWO_TO_54)?, &x)?;
            let odd = x.eq(0.0)?.logical_or(&x.isfinite()?.logical_not()?)?;
            let size = odd.where_cond(0.5, &lifted.abs()?)?;
            // The logarithm may be rounded across an integer.
            let guess = size.log2()?.floor()?.add(1.0)?;
            let half = guess.mul(-0.5)?.floor()?;
            let scaled = size.mul(&half.exp2()?)?.mul(&guess.neg()?.sub(&half)?.exp2()?)?;
            let more = scaled.ge(1.0)?.to_dtype(DType::F64)?.sub(&scaled.lt(0.5)?.to_dtype(DType::F64)?)?;
            let mantissa = scaled.mul(&more.neg()?.exp2()?)?.mul(&lifted.sign()?)?;
            let exponent = guess.add(&more)?.sub(&tiny.to_dtype(DType::F64)?.mul(54.0)?)?;
            let exponent = odd.where_cond(0.0, &exponent)?.to_dtype(DType::I32)?;
            Ok((odd.where_cond(&x, &mantissa)?.to_dtype(self.dtype())?, exponent))
        })?;
        let scale = exponent.clone();
        let mantissa = record(mantissa, "FrexpBackward0", &[self], &[&scale], |ctx| {
            let exponent = ctx.constant(0)?;
            Ok(one(ctx.grad()?.div(&exponent.to_dtype(DType::F64)?.exp2()?)?.to_dtype(ctx.grad()?.dtype())?))
        })?;
        Ok((mantissa, exponent))
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
        let zero = x.eq(0.0)?;
        let angle = zero.where_cond(1.0, &x)?.mul(PI)?;
        zero.where_cond(1.0, &angle.sin()?.div(&angle)?)?.to_dtype(dtype)
    }

    /// `log(x / (1 - x))`, the inverse of the sigmoid; with `eps`, of `x` between `eps` and `1 - eps`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.logit.html>).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn logit(&self, eps: Option<f64>) -> Result<Tensor> {
        let (x, _, dtype) = floats(self, &Rhs::Scalar(Scalar::Int(0)))?;
        let x = match eps {
            // The lower bound is applied first, also where it is above the upper one.
            Some(eps) => x.lt(eps)?.where_cond(eps, &x.gt(1.0 - eps)?.where_cond(1.0 - eps, &x)?)?,
            None => x,
        };
        x.div(&x.rsub(1.0)?)?.log()?.to_dtype(dtype)
    }

    /// The fractional part, with the sign of the number: `x - trunc(x)`.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn frac(&self) -> Result<Tensor> {
        self.sub(&self.trunc()?)
    }

    /// Degrees as radians.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn deg2rad(&self) -> Result<Tensor> {
        self.mul(PI / 180.0)
    }

    /// Radians as degrees.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn rad2deg(&self) -> Result<Tensor> {
        self.mul(180.0 / PI)
    }

    /// Whether each element is positive infinity.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn isposinf(&self) -> Result<Tensor> {
        if self.dtype().is_float() { self.eq(f64::INFINITY) } else { self.ne(self) }
    }

    /// Whether each element is negative infinity.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn isneginf(&self) -> Result<Tensor> {
        if self.dtype().is_float() { self.eq(f64::NEG_INFINITY) } else { self.ne(self) }
    }

    /// The larger one; the one that is a number if the other is NaN
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.fmax.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn fmax(&self, other: &Tensor) -> Result<Tensor> {
        self.ge(other)?.logical_or(&other.ne(other)?)?.where_cond(self, other)
    }

    /// The smaller one; the one that is a number if the other is NaN
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.fmin.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn fmin(&self, other: &Tensor) -> Result<Tensor> {
        self.le(other)?.logical_or(&other.ne(other)?)?.where_cond(self, other)
    }

    /// `self^exponent` in `f64` (<https://docs.pytorch.org/docs/stable/generated/torch.float_power.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn float_power(&self, exponent: impl Into<Rhs>) -> Result<Tensor> {
        let x = self.to_dtype(DType::F64)?;
        match exponent.into() {
            Rhs::Tensor(exponent) => x.pow(&exponent.to_dtype(DType::F64)?),
            Rhs::Scalar(exponent) => x.pow(exponent.to_f64()),
        }
    }
}

/// `x · log(y)`, 0 where `x` is 0 and the logarithm is not finite. The gradient is 0 there.
fn product_with_log(
    x: &Tensor,
    y: &Tensor,
    out_of_range: &Tensor,
    log: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let masked = no_grad(|| x.eq(0.0)?.logical_and(&out_of_range.logical_or(&y.isinf()?)?))?;
    let y = masked.where_cond(1.0, y)?;
    masked.where_cond(0.0, &x.mul(&log(&y)?)?)
}
