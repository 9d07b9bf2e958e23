//! Dropout: zeroes random elements while training.

use kiln_backend::{Arguments, DropoutArgs, Error, RandomState, Result};
use kiln_derive::located;

use super::check;
use crate::{
    autograd::{one, record, record_gradient},
    creation,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// While training, sets elements to 0 with probability `p` and divides the others by `1 - p` (Srivastava et al.,
    /// 2014); otherwise returns this tensor. No mask is stored: the backward pass draws it again.
    ///
    /// # Errors
    /// If `p` is outside `[0, 1]`, or the tensor is not floating-point.
    pub fn dropout(&self, p: f64, training: bool) -> Result<Tensor> {
        const OP: &str = "dropout";
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::argument(OP, format!("the probability {p} is outside [0, 1]")));
        }
        check::floats(OP, self)?;
        if !training || p == 0.0 {
            return Ok(self.clone());
        }
        if p == 1.0 {
            return self.mul(0.0);
        }
        let state = creation::take(self.numel(), 1);
        let out = record(self.dropped(p, state)?, "NativeDropoutBackward0", &[self], &[], move |ctx| {
            Ok(one(ctx.grad()?.dropped_again(p, state)?))
        })?;
        Ok(out.described(OP, || []))
    }

    /// [`dropped`](Tensor::dropped) of a gradient, recorded if the pass is; its own gradient has the same mask.
    pub(super) fn dropped_again(&self, p: f64, state: RandomState) -> Result<Tensor> {
        record_gradient(self.dropped(p, state)?, "NativeDropoutBackwardBackward0", &[self], &[], move |ctx| {
            Ok(one(ctx.grad()?.dropped_again(p, state)?))
        })
    }

    /// Dropout with the random numbers from `state` on; its gradient is the same function of the incoming gradient.
    pub(super) fn dropped(&self, p: f64, state: RandomState) -> Result<Tensor> {
        let reading = self.read();
        Tensor::compute(self.device(), self.dtype(), *self.shape(), |backend, out| {
            backend.dropout(DropoutArgs { p, state, x: reading.view(), out }.checked()?)
        })
    }
}
