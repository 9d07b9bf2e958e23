//! Predicates on elements, and comparisons of whole tensors.

use kiln_backend::{DType, Result};
use kiln_derive::located;

use super::{check, rhs::Rhs};
use crate::{autograd::no_grad, tensor::Tensor};

#[located]
impl Tensor {
    /// Whether the element is NaN.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn isnan(&self) -> Result<Tensor> {
        self.ne(self)
    }

    /// Whether the element is infinite.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn isinf(&self) -> Result<Tensor> {
        let x = self.detach();
        if self.dtype().is_float() { x.abs()?.eq(f64::INFINITY) } else { x.ne(&x) }
    }

    /// Whether the element is neither infinite nor NaN.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn isfinite(&self) -> Result<Tensor> {
        let x = self.detach();
        if self.dtype().is_float() { x.abs()?.lt(f64::INFINITY) } else { x.eq(&x) }
    }

    /// Whether the element is zero (NaN is not).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn logical_not(&self) -> Result<Tensor> {
        self.eq(false)
    }

    /// Whether the elements of both are nonzero (NaN is), element-wise; the dtypes may differ.
    ///
    /// # Errors
    /// If the shapes do not broadcast, or the devices differ.
    pub fn logical_and(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let other: Rhs = other.into();
        self.truth()?.bitwise_and(other.truth()?)
    }

    /// Whether the element of either is nonzero (NaN is), element-wise; the dtypes may differ.
    ///
    /// # Errors
    /// If the shapes do not broadcast, or the devices differ.
    pub fn logical_or(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let other: Rhs = other.into();
        self.truth()?.bitwise_or(other.truth()?)
    }

    /// Whether exactly one of the elements is nonzero (NaN is), element-wise; the dtypes may differ.
    ///
    /// # Errors
    /// If the shapes do not broadcast, or the devices differ.
    pub fn logical_xor(&self, other: impl Into<Rhs>) -> Result<Tensor> {
        let other: Rhs = other.into();
        self.truth()?.bitwise_xor(other.truth()?)
    }

    /// Inverts the bits of integers; negates truth values.
    ///
    /// # Errors
    /// If the tensor is of floats, or memory runs out.
    pub fn bitwise_not(&self) -> Result<Tensor> {
        if self.dtype() == DType::Bool { self.logical_not() } else { self.bitwise_xor(-1) }
    }

    /// Whether the element is nonzero.
    fn truth(&self) -> Result<Tensor> {
        if self.dtype() == DType::Bool { Ok(self.clone()) } else { self.ne(0) }
    }

    /// Whether `|self - other| <= atol + rtol * |other|`, element-wise; infinities are close to themselves, NaN to
    /// nothing. PyTorch's defaults are `rtol` 1e-5 and `atol` 1e-8.
    ///
    /// # Errors
    /// If a tolerance is negative or NaN, the shapes do not broadcast, or dtypes or devices differ.
    pub fn isclose(&self, other: &Tensor, rtol: f64, atol: f64) -> Result<Tensor> {
        self.close("isclose", other, rtol, atol, false)
    }

    /// [`isclose`](Tensor::isclose) that treats NaN as close to NaN.
    ///
    /// # Errors
    /// Those of [`isclose`](Tensor::isclose).
    pub fn isclose_equal_nan(&self, other: &Tensor, rtol: f64, atol: f64) -> Result<Tensor> {
        self.close("isclose_equal_nan", other, rtol, atol, true)
    }

    fn close(&self, op: &'static str, other: &Tensor, rtol: f64, atol: f64, equal_nan: bool) -> Result<Tensor> {
        check::same_kind(op, self, &[other])?;
        kiln_backend::Shape::broadcast(op, self.shape(), other.shape())?;
        // NaN is not a tolerance either.
        if [rtol, atol].iter().any(|tolerance| tolerance.is_nan() || *tolerance < 0.0) {
            let message = format!("tolerances must be at least 0, got rtol {rtol} and atol {atol}");
            return Err(kiln_backend::Error::argument(op, message));
        }
        no_grad(|| {
            // Half precision and integers would round or overflow in between.
            let wide = if self.dtype() == DType::F32 { DType::F32 } else { DType::F64 };
            let (a, b) = (self.to_dtype(wide)?, other.to_dtype(wide)?);
            let distance = a.sub(&b)?.abs()?;
            let near = distance.le(&b.abs()?.mul(rtol)?.add(atol)?)?.logical_and(&distance.isfinite()?)?;
            let close = near.logical_or(&a.eq(&b)?)?;
            if equal_nan { close.logical_or(&a.isnan()?.logical_and(&b.isnan()?)?) } else { Ok(close) }
        })
    }

    /// Whether all elements are [close](Tensor::isclose). Waits for the device.
    ///
    /// # Errors
    /// Those of [`isclose`](Tensor::isclose).
    pub fn allclose(&self, other: &Tensor, rtol: f64, atol: f64) -> Result<bool> {
        self.close("allclose", other, rtol, atol, false)?.all(())?.item()
    }

    /// [`allclose`](Tensor::allclose) that treats NaN as close to NaN.
    ///
    /// # Errors
    /// Those of [`isclose`](Tensor::isclose).
    pub fn allclose_equal_nan(&self, other: &Tensor, rtol: f64, atol: f64) -> Result<bool> {
        self.close("allclose_equal_nan", other, rtol, atol, true)?.all(())?.item()
    }

    /// Whether both have the same shape and equal elements, of any dtypes (NaN equals nothing). Waits for the device.
    ///
    /// # Errors
    /// If devices differ.
    pub fn equal(&self, other: &Tensor) -> Result<bool> {
        check::same_device("equal", self, &[other])?;
        Ok(self.shape() == other.shape() && self.eq(other)?.all(())?.item()?)
    }
}

impl Rhs {
    /// Whether it is nonzero.
    fn truth(&self) -> Result<Rhs> {
        Ok(match self {
            Rhs::Tensor(t) => Rhs::Tensor(t.truth()?),
            Rhs::Scalar(value) => Rhs::from(value.to_bool()),
        })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::{DType, Result};

    #[test]
    fn special_values() -> Result<()> {
        let x = Tensor::new(&[1f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.], Device::Cpu)?;
        assert_eq!(x.isnan()?.to_vec::<bool>()?, [false, true, false, false, false]);
        assert_eq!(x.isinf()?.to_vec::<bool>()?, [false, false, true, true, false]);
        assert_eq!(x.isfinite()?.to_vec::<bool>()?, [true, false, false, false, true]);
        assert_eq!(x.logical_not()?.to_vec::<bool>()?, [false, false, false, false, true]);
        let i = Tensor::new(&[true, false], Device::Cpu)?;
        assert_eq!(i.isfinite()?.to_vec::<bool>()?, [true, true]);
        assert_eq!(i.isinf()?.logical_or(&i.isnan()?)?.to_vec::<bool>()?, [false, false]);
        assert_eq!(i.logical_not()?.to_vec::<bool>()?, [false, true]);
        Ok(())
    }

    #[test]
    fn comparing_tensors() -> Result<()> {
        let x = Tensor::new(&[1f32, f32::INFINITY], Device::Cpu)?;
        let y = Tensor::new(&[1.000_001f32, f32::INFINITY], Device::Cpu)?;
        assert!(x.allclose(&y, 1e-5, 1e-8)? && !x.allclose(&y, 0., 0.)? && !x.equal(&y)?);
        assert!(!y.allclose(&Tensor::new(&[1f32, 5.], Device::Cpu)?, 1e-5, 1e-8)?);
        assert!(x.equal(&x)? && !x.equal(&x.reshape([2, 1])?)? && x.equal(&x.to_dtype(DType::F64)?)?);
        assert!(Tensor::zeros([0], Device::Cpu)?.equal(&Tensor::zeros([0], Device::Cpu)?)?);
        Ok(())
    }
}
