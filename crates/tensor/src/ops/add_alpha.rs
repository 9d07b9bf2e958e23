//! Addition and subtraction of a multiple: `add`, `sub` and `rsub` with PyTorch's `alpha`.

use kiln_backend::{BinaryOp, DType, Error, Result, Scalar};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{
    binary::{arithmetic_as, promote},
    promotion::narrowed,
    rhs::Rhs,
};
use crate::{
    autograd::{no_grad, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `self + alpha * other`, PyTorch's `add(other, alpha=alpha)`: rounded once in half precision.
    ///
    /// # Errors
    /// Those of [`add`](Tensor::add); or if `alpha` is a float and the operands are not, or it is a truth value and
    /// they are not.
    pub fn add_alpha(&self, other: impl Into<Rhs>, alpha: impl Into<Scalar>) -> Result<Tensor> {
        with_alpha("add_alpha", BinaryOp::Add, &self.into(), &other.into(), alpha.into(), "AddBackward0")
    }

    /// `self - alpha * other`, PyTorch's `sub(other, alpha=alpha)`: rounded once in half precision.
    ///
    /// # Errors
    /// Those of [`add_alpha`](Tensor::add_alpha); or if the operands are truth values.
    pub fn sub_alpha(&self, other: impl Into<Rhs>, alpha: impl Into<Scalar>) -> Result<Tensor> {
        with_alpha("sub_alpha", BinaryOp::Sub, &self.into(), &other.into(), alpha.into(), "SubBackward0")
    }

    /// `other - self`.
    ///
    /// # Errors
    /// Those of [`sub`](Tensor::sub).
    pub fn rsub(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let other: Rhs = other.into();
        let node = if other.tensor().is_some() { "RsubBackward0" } else { "RsubBackward1" };
        with_alpha("rsub", BinaryOp::Sub, &other, &self.into(), Scalar::Int(1), node)
    }

    /// `other - alpha * self`, PyTorch's `rsub(other, alpha=alpha)`: rounded once in half precision.
    ///
    /// # Errors
    /// Those of [`sub_alpha`](Tensor::sub_alpha).
    pub fn rsub_alpha(&self, other: impl Into<Rhs>, alpha: impl Into<Scalar>) -> Result<Tensor> {
        let other: Rhs = other.into();
        let node = if other.tensor().is_some() { "RsubBackward0" } else { "RsubBackward1" };
        with_alpha("rsub_alpha", BinaryOp::Sub, &other, &self.into(), alpha.into(), node)
    }

    /// `self += alpha * other`, in place.
    ///
    /// # Errors
    /// Those of [`add_`](Tensor::add_) and [`add_alpha`](Tensor::add_alpha).
    pub fn add_alpha_(&self, other: impl Into<Rhs>, alpha: impl Into<Scalar>) -> Result<()> {
        let other: Rhs = other.into();
        self.records_change("add_alpha_", other.tensor())?;
        self.replace_by("add_alpha_", &self.cast_in_place("add_alpha_", &self.add_alpha(other, alpha)?)?)
    }

    /// `self -= alpha * other`, in place.
    ///
    /// # Errors
    /// Those of [`sub_`](Tensor::sub_) and [`sub_alpha`](Tensor::sub_alpha).
    pub fn sub_alpha_(&self, other: impl Into<Rhs>, alpha: impl Into<Scalar>) -> Result<()> {
        let other: Rhs = other.into();
        self.records_change("sub_alpha_", other.tensor())?;
        self.replace_by("sub_alpha_", &self.cast_in_place("sub_alpha_", &self.sub_alpha(other, alpha)?)?)
    }
}

/// The product of two numbers; integers wrap.
fn product(a: Scalar, b: Scalar) -> Scalar {
    if a.is_float() || b.is_float() {
        return Scalar::Float(a.to_f64() * b.to_f64());
    }
    Scalar::Int(a.to_i64().wrapping_mul(b.to_i64()))
}

fn with_alpha(name: &'static str, op: BinaryOp, a: &Rhs, b: &Rhs, alpha: Scalar, node: &'static str) -> Result<Tensor> {
    if let Some(dtype) = narrowed(a, b) {
        let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        return with_alpha(name, op, &a, &b, alpha, node)?.to_dtype(dtype);
    }
    let (_, a, b) = promote(name, op, a, b)?;
    let Some(dtype) = a.tensor().or(b.tensor()).map(Tensor::dtype) else {
        return Err(Error::argument(name, "one operand must be a tensor"));
    };
    match alpha {
        Scalar::Float(_) if !dtype.is_float() => {
            return Err(Error::dtype(name, dtype, "a floating-point `alpha` needs floating-point operands"));
        }
        Scalar::Bool(_) if dtype != DType::Bool => {
            return Err(Error::dtype(name, dtype, "a bool `alpha` needs bool operands"));
        }
        _ => {}
    }
    let scaled = match &b {
        Rhs::Scalar(number) => return arithmetic_as(name, op, &a, &Rhs::Scalar(product(*number, alpha))),
        Rhs::Tensor(b) if dtype == DType::Bool => {
            return arithmetic_as(name, op, &a, &Rhs::from(b.mul(alpha.to_bool())?));
        }
        _ if alpha.to_f64() == 1.0 && node != "RsubBackward0" => return arithmetic_as(name, op, &a, &b),
        Rhs::Tensor(b) => b,
    };
    let out = no_grad(|| {
        let first = match &a {
            Rhs::Tensor(a) => Rhs::from(a.widened()?),
            number => number.clone(),
        };
        arithmetic_as(name, op, &first, &Rhs::from(scaled.widened()?.mul(alpha)?))?.to_dtype(dtype)
    })?;
    let inputs: SmallVec<[&Tensor; 2]> = [a.tensor(), Some(scaled)].into_iter().flatten().collect();
    let (first, shape) = (a.tensor().map(|a| *a.shape()), *scaled.shape());
    let slope = if op == BinaryOp::Sub { product(alpha, Scalar::Int(-1)) } else { alpha };
    record(out, node, &inputs, &[], move |ctx| {
        let grad = ctx.grad()?;
        let mut grads = smallvec![];
        if let Some(shape) = first {
            grads.push(ctx.when(0, || grad.sum_to(&shape))?);
        }
        grads.push(ctx.when(grads.len(), || grad.widened()?.mul(slope)?.sum_to(&shape)?.to_dtype(dtype))?);
        Ok(grads)
    })
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::{DType, Result};

    #[test]
    fn a_multiple_is_added_in_place() -> Result<()> {
        let x = Tensor::new(&[1f32, 2.], Device::Cpu)?;
        x.add_alpha_(&Tensor::new(&[10f32, 20.], Device::Cpu)?, -0.5)?;
        assert_eq!(x.to_vec::<f32>()?, [-4., -8.]);
        x.sub_alpha_(2, 3)?;
        assert_eq!(x.to_vec::<f32>()?, [-10., -14.]);
        let leaf = Tensor::new(&[1f32], Device::Cpu)?.requires_grad_(true)?;
        assert!(leaf.add_alpha_(1, 2).is_err());
        let (y, z) = (leaf.copy()?, leaf.mul(3)?);
        y.add_alpha_(&z, 2)?;
        y.sum(())?.backward()?;
        assert_eq!(leaf.grad().unwrap().to_vec::<f32>()?, [7.]);
        Ok(())
    }

    #[test]
    fn kinds_of_alpha() -> Result<()> {
        let i = Tensor::new(&[5i64, -7], Device::Cpu)?;
        assert_eq!(i.add_alpha(&i, 2)?.to_vec::<i64>()?, [15, -21]);
        assert_eq!(i.add_alpha(1.5, 2)?.to_vec::<f32>()?, [8., -4.]);
        let error = i.add_alpha(&i, 1.5).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("add_alpha"), "{error}");
        assert!(i.add_alpha(&i, true).is_err());
        let b = Tensor::new(&[true, false], Device::Cpu)?;
        assert_eq!(b.add_alpha(&b.logical_not()?, true)?.to_vec::<bool>()?, [true, true]);
        assert_eq!(b.add_alpha(&b.logical_not()?, false)?.to_vec::<bool>()?, [true, false]);
        assert!(b.sub_alpha(&b, true).is_err() && b.rsub(true).is_err());
        let h = Tensor::full([1], 0.001, (DType::F16, Device::Cpu))?;
        assert_eq!(h.rsub_alpha(0, -1e5)?.item::<f64>()?, h.mul(1e5)?.item::<f64>()?);
        Ok(())
    }
}
