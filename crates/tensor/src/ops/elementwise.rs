//! Element-wise operations that are composed of those of the tables: `logaddexp`, `hypot`, `heaviside`, `fmax`, …. Special
//! functions are in `special`, those of the parts of floats in `float_parts`.

use std::f64::consts::{LN_2, PI};

use kiln_backend::{DType, Result};
use kiln_derive::located;

use super::{check, promotion::result_type, rhs::Rhs};
use crate::{
    autograd::{no_grad, record},
    tensor::Tensor,
};

/// Operands as tensors of the type that floats are computed in, and the dtype of the result.
pub(super) fn floats(a: &Tensor, b: &Rhs) -> Result<(Tensor, Tensor, DType)> {
    let common = result_type(&[&Rhs::from(a), b]);
    let dtype = if common.is_float() { common } else { DType::F32 };
    let b = match b {
        Rhs::Tensor(tensor) => tensor.clone(),
        Rhs::Scalar(number) => Tensor::full((), *number, a.options().dtype(dtype))?,
    };
    Ok((a.to_dtype(dtype)?.widened()?, b.to_dtype(dtype)?.widened()?, dtype))
}

#[located]
impl Tensor {
    /// `log(exp(self) + exp(other))`, without overflow
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.logaddexp.html>). The gradients of equal infinities are NaN.
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
            Ok(smallvec::smallvec![
                ctx.when(0, || grad.mul(&difference.sigmoid()?)?.sum_to(&shape_a))?,
                ctx.when(1, || grad.mul(&difference.neg()?.sigmoid()?)?.sum_to(&shape_b))?
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
            let toward = |side: &Tensor| grad.mul(side)?.div(&out);
            Ok(smallvec::smallvec![
                ctx.when(0, || toward(&ctx.saved(0)?)?.sum_to(&shape_a))?,
                ctx.when(1, || toward(&ctx.saved(1)?)?.sum_to(&shape_b))?
            ])
        })?;
        out.to_dtype(dtype)
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

    /// The larger one; the one that is a number if the other is NaN. Equal operands share the gradient
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.fmax.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn fmax(&self, other: &Tensor) -> Result<Tensor> {
        number_ahead("FmaxBackward0", self, other, |a, b| a.gt(b))
    }

    /// The smaller one; the one that is a number if the other is NaN. Equal operands share the gradient
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.fmin.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn fmin(&self, other: &Tensor) -> Result<Tensor> {
        number_ahead("FminBackward0", self, other, |a, b| a.lt(b))
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

/// The operand that is ahead of the other, or of which the other is NaN.
fn number_ahead(
    node: &'static str,
    a: &Tensor,
    b: &Tensor,
    is_ahead: fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let dtype = result_type(&[&Rhs::from(a), &Rhs::from(b)]);
    let (a, b) = (a.to_dtype(dtype)?, b.to_dtype(dtype)?);
    // Where the first operand is taken, and where both are equal.
    let masks = move |a: &Tensor, b: &Tensor| -> Result<[Tensor; 2]> {
        no_grad(|| Ok([is_ahead(a, b)?.logical_or(&b.ne(b)?)?, a.eq(b)?]))
    };
    let out = no_grad(|| {
        let [first, equal] = masks(&a, &b)?;
        first.logical_or(&equal)?.where_cond(&a, &b)
    })?;
    let shapes = [*a.shape(), *b.shape()];
    record(out, node, &[&a, &b], &[&a, &b], move |ctx| {
        let grad = ctx.grad()?;
        let [first, equal] = masks(&ctx.constant(0)?, &ctx.constant(1)?)?;
        let share = equal.where_cond(&grad.mul(0.5)?, &grad)?;
        Ok(smallvec::smallvec![
            ctx.when(0, || first.logical_or(&equal)?.where_cond(&share, 0)?.sum_to(&shapes[0]))?,
            ctx.when(1, || first.where_cond(0, &share)?.sum_to(&shapes[1]))?
        ])
    })
}
