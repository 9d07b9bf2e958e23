//! Functions of the parts that floats consist of, sign, exponent and mantissa: `copysign`, `signbit`, `ldexp`, `frexp`,
//! `nextafter`.

use kiln_backend::{DType, Result};
use kiln_derive::located;

use super::{check, elementwise::floats, promotion::result_type, rhs::Rhs};
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

const TWO_TO_54: f64 = (1u64 << 54) as f64;

/// The number of bits of a dtype's mantissa, with the one that is not stored; the exponent of its smallest number, and its
/// largest number.
fn precision(dtype: DType) -> (f64, f64, f64) {
    match dtype {
        DType::F64 => (53.0, -1074.0, f64::MAX),
        DType::F16 => (11.0, -24.0, 65504.0),
        DType::BF16 => (8.0, -133.0, 3.389_531_389_251_535_5e38),
        _ => (24.0, -149.0, f64::from(f32::MAX)),
    }
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
            // 1 or -1; 0 where the tensor is 0, NaN where it is infinite.
            let slope = no_grad(|| x.eq(0.0)?.where_cond(0.0, &out.div(&x)?))?;
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

    /// `self · 2^other`, in the dtype of a float among them (<https://docs.pytorch.org/docs/stable/generated/torch.ldexp.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, or devices differ.
    pub fn ldexp(&self, other: &Tensor) -> Result<Tensor> {
        cast_operands("ldexp", [self, other], [], |[x, other], []| {
            let common = result_type(&[&Rhs::from(x), &Rhs::from(other)]);
            let dtype = if common.is_float() { common } else { DType::F32 };
            let x = x.to_dtype(dtype)?.widened()?;
            x.mul(&other.to_dtype(x.dtype())?.rpow(2.0)?)?.to_dtype(dtype)
        })
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

    /// The next number of the dtype after each of this tensor's, toward the other's; the number itself where both are equal
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nextafter.html>). The gradient passes where they differ.
    ///
    /// # Errors
    /// If the tensors are not floating-point, the shapes do not broadcast, or devices differ.
    pub fn nextafter(&self, other: &Tensor) -> Result<Tensor> {
        const OP: &str = "nextafter";
        check::floats(OP, self)?;
        check::floats(OP, other)?;
        check::same_device(OP, self, &[other])?;
        let dtype = result_type(&[&Rhs::from(self), &Rhs::from(other)]);
        let (a, b) = (self.to_dtype(dtype)?, other.to_dtype(dtype)?);
        // In `f64` the distances to the neighbors are exact, and so are the sums.
        let out = no_grad(|| {
            let (bits, smallest, largest) = precision(dtype);
            let (x, target) = (a.detach().to_dtype(DType::F64)?, b.detach().to_dtype(DType::F64)?);
            let (up, size) = (target.gt(&x)?, x.abs()?);
            let grows = up.eq(&x.gt(0.0)?)?;
            let (mantissa, exponent) = size.frexp()?;
            // Below a power of 2, numbers are half as far apart.
            let is_closer = mantissa.eq(0.5)?.logical_and(&grows.logical_not()?)?.to_dtype(DType::F64)?;
            let distance = exponent.to_dtype(DType::F64)?.sub(&is_closer)?.sub(bits)?.clamp_min(smallest)?.exp2()?;
            let moved = size.add(&grows.where_cond(&distance, &distance.neg()?)?)?;
            let moved = size.isinf()?.where_cond(largest, &moved)?;
            let moved = x.lt(0.0)?.where_cond(&moved.neg()?, &moved)?;
            let tiny = smallest.exp2();
            let moved = x.eq(0.0)?.where_cond(&up.where_cond(tiny, -tiny)?.to_dtype(DType::F64)?, &moved)?;
            let moved = x.eq(&target)?.where_cond(&target, &moved)?;
            let is_number = x.isnan()?.logical_or(&target.isnan()?)?.logical_not()?;
            is_number.where_cond(&moved, f64::NAN)?.to_dtype(dtype)
        })?;
        let shapes = [*a.shape(), *b.shape()];
        record(out, "NextafterBackward0", &[&a, &b], &[&a, &b], move |ctx| {
            let grad = ctx.grad()?;
            let differs = no_grad(|| ctx.constant(0)?.ne(&ctx.constant(1)?))?;
            Ok(smallvec::smallvec![
                ctx.when(0, || differs.where_cond(&grad, 0)?.sum_to(&shapes[0]))?,
                ctx.when(1, || Tensor::zeros(shapes[1], grad.options()))?
            ])
        })
    }
}
