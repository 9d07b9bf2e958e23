//! Gradients of gradients of fused operations: a fused primitive leaves no trace of its gradient on the tape, so with
//! `create_graph` the operation is computed again from operations that do.

use kiln_backend::Result;
use smallvec::SmallVec;

use super::{
    engine::{BackwardOptions, grad_with},
    record::{is_recorded, record},
    rule::{Ctx, Grads, one},
};
use crate::tensor::Tensor;

impl Ctx<'_> {
    /// The gradients of the node's inputs, recorded. `compute` computes the node's output from them by operations that have
    /// gradients of gradients.
    pub fn composed(&self, inputs: &[Tensor], compute: impl FnOnce(&[Tensor]) -> Result<Tensor>) -> Result<Grads> {
        // The inputs' own nodes may have hooks, which are called with the gradients of the whole pass only: the pass below
        // ends at nodes in front of them.
        let cut = |(i, input): (usize, &Tensor)| {
            if !self.needs(i) {
                return Ok(input.clone());
            }
            record(input.detach(), "AliasBackward0", &[input], &[], |ctx| Ok(one(ctx.grad()?)))
        };
        let inputs: SmallVec<[Tensor; 4]> = inputs.iter().enumerate().map(cut).collect::<Result<_>>()?;
        let out = compute(&inputs)?;
        let wanted: SmallVec<[&Tensor; 4]> =
            inputs.iter().enumerate().filter(|(i, _)| self.needs(*i)).map(|(_, input)| input).collect();
        if !out.requires_grad() {
            // It has no elements.
            return (0..inputs.len()).map(|i| self.when(i, || inputs[i].zeros_like())).collect();
        }
        let mut grads = grad_with(&[(out, Some(self.grad()?))], &wanted, BackwardOptions::create_graph())?.into_iter();
        Ok((0..inputs.len()).map(|i| if self.needs(i) { grads.next().flatten() } else { None }).collect())
    }
}

/// Records how the gradient `out` was made by a primitive from `inputs`, if the pass is recorded. (Unlike operations that
/// users call, it is not noted in traces.)
pub(crate) fn record_gradient(
    out: Tensor,
    name: &'static str,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    rule: impl Fn(&Ctx<'_>) -> Result<Grads> + Send + Sync + 'static,
) -> Result<Tensor> {
    if is_recorded(inputs) { record(out, name, inputs, saved, rule) } else { Ok(out) }
}
