//! `class_loss`: cross-entropy and negative log-likelihood, fused into one pass over memory per direction.
//!
//! The input is `[N, C, S]`: `N * S` rows of `C` classes. Rows are loaded into tiles of the compute type ([`tile`]) and
//! processed there ([`rows`]), so the arithmetic is written once for all layouts and dtypes.
//!
//! The forward pass saves the difference between a row's log-sum-exp and its largest logit, and the backward pass finds
//! that largest logit again. At logits around 1e4, saving the log-sum-exp itself would lose three of the seven digits
//! of `f32`.

mod backward;
mod forward;
mod problem;
mod rows;
mod tile;

use kiln_backend::{Checked, ClassLossArgs, ClassLossBackend, ClassLossGradArgs, ClassLossOperands, Error, Result};

use crate::{
    device::CpuBackend,
    numeric::dispatch::{for_float, for_half},
};

const WIDER: &str = "only losses of half precision may be wider than their scores";

impl ClassLossBackend for CpuBackend {
    fn class_loss(&self, args: Checked<ClassLossArgs>) -> Result<()> {
        let ClassLossOperands { rule, x, .. } = args.operands;
        if args.grad.is_some() {
            return Err(Error::argument(rule.name(), "the CPU computes the gradient by a call of its own"));
        }
        let args = args.into_inner();
        if args.loss.dtype() == x.dtype() {
            return for_float!(rule.name(), x.dtype(), T => forward::forward::<T, T>(args));
        }
        for_half!(x.dtype(), T => forward::forward::<T, f32>(args), other => Err(Error::dtype(rule.name(), other, WIDER)))
    }

    fn class_loss_grad(&self, args: Checked<ClassLossGradArgs>) -> Result<()> {
        let ClassLossOperands { rule, x, .. } = args.operands;
        let args = args.into_inner();
        if args.grad.dtype() == x.dtype() {
            return for_float!(rule.name(), x.dtype(), T => backward::backward::<T, T>(args));
        }
        for_half!(x.dtype(), T => backward::backward::<T, f32>(args), other => Err(Error::dtype(rule.name(), other, WIDER)))
    }
}
