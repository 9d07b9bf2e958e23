//! `div_rounding`, and rounding to decimal places.

use kiln_backend::Result;
use kiln_derive::located;

use super::{check, rhs::Rhs};
use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

/// PyTorch's `rounding_mode` of `div`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundingMode {
    /// Toward 0.
    Trunc,
    /// Down.
    Floor,
}

#[located]
impl Tensor {
    /// `self / other`, PyTorch's `div(other, rounding_mode=mode)`: [`div`](Tensor::div) without a mode,
    /// [`trunc_divide`](Tensor::trunc_divide) or [`floor_divide`](Tensor::floor_divide) with one.
    ///
    /// # Errors
    /// If shapes do not broadcast, devices differ, or integers are divided by 0.
    pub fn div_rounding(&self, other: impl Into<Rhs>, mode: Option<RoundingMode>) -> Result<Tensor> {
        match mode {
            None => self.div(other),
            Some(RoundingMode::Trunc) => self.trunc_divide(other),
            Some(RoundingMode::Floor) => self.floor_divide(other),
        }
    }

    /// Rounds to this many decimal places, halves to even, PyTorch's `round(decimals=decimals)`; with a negative
    /// number, to tens, hundreds and so on. The gradient is 0.
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn round_decimals(&self, decimals: i32) -> Result<Tensor> {
        check::floats("round_decimals", self)?;
        let scale = 10f64.powi(decimals.saturating_abs());
        let out = no_grad(|| {
            let x = self.widened()?;
            let rounded =
                if decimals < 0 { x.div(scale)?.round()?.mul(scale) } else { x.mul(scale)?.round()?.div(scale) };
            rounded?.to_dtype(self.dtype())
        })?;
        record(out, "RoundBackward1", &[self], &[], |ctx| Ok(one(ctx.grad()?.zeros_like()?)))
    }
}
