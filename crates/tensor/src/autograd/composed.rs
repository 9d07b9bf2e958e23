//! Gradients of gradients of fused operations: the gradient primitive of a fused operation is not recorded on the tape,
//! so with `create_graph` the operation is recomputed from operations that are.

use kiln_backend::Result;
use smallvec::SmallVec;

use super::{
    engine::grad_with,
    options::BackwardOptions,
    record::{is_recorded, record},
    rule::{Ctx, Grads, one},
};
use crate::tensor::Tensor;

impl Ctx<'_> {
    /// The gradients of the node's inputs, recorded. `compute` computes the node's output from the inputs with
    /// operations that have gradients of gradients.
    pub fn composed(&self, inputs: &[Tensor], compute: impl FnOnce(&[Tensor]) -> Result<Tensor>) -> Result<Grads> {
        self.composed_all(inputs, |inputs| Ok(vec![compute(inputs)?]))
    }

    /// [`composed`](Ctx::composed) for a node with several outputs, which `compute` returns in order.
    pub fn composed_all(
        &self,
        inputs: &[Tensor],
        compute: impl FnOnce(&[Tensor]) -> Result<Vec<Tensor>>,
    ) -> Result<Grads> {
        // The inputs' own nodes may have hooks, which must see only the gradients of the whole pass: the pass below
        // ends at nodes before them.
        let cut = |(i, input): (usize, &Tensor)| {
            if !self.needs(i) {
                return Ok(input.clone());
            }
            record(input.detach(), "AliasBackward0", &[input], &[], |ctx| Ok(one(ctx.grad()?)))
        };
        let inputs: SmallVec<[Tensor; 4]> = inputs.iter().enumerate().map(cut).collect::<Result<_>>()?;
        let outs = compute(&inputs)?;
        let wanted: SmallVec<[&Tensor; 4]> =
            inputs.iter().enumerate().filter(|(i, _)| self.needs(*i)).map(|(_, input)| input).collect();
        // An output that has no elements needs no gradient.
        let roots = outs.into_iter().enumerate().filter(|(_, out)| out.requires_grad());
        let roots: SmallVec<[_; 2]> = roots.filter_map(|(i, out)| Some((out, Some(self.grad_of(i)?)))).collect();
        if roots.is_empty() {
            return (0..inputs.len()).map(|i| self.when(i, || inputs[i].zeros_like())).collect();
        }
        let mut grads = grad_with(&roots, &wanted, BackwardOptions::create_graph())?.into_iter();
        Ok((0..inputs.len()).map(|i| if self.needs(i) { grads.next().flatten() } else { None }).collect())
    }
}

/// Records how a primitive computed the gradient `out` from `inputs`, if the pass is recorded. (Unlike operations that
/// users call, it does not appear in traces.)
pub(crate) fn record_gradient(
    out: Tensor,
    name: &'static str,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    rule: impl Fn(&Ctx<'_>) -> Result<Grads> + Send + Sync + 'static,
) -> Result<Tensor> {
    if is_recorded(inputs) { record(out, name, inputs, saved, rule) } else { Ok(out) }
}
