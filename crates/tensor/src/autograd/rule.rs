//! Gradient rules: what a rule is given, and what it returns.

use kiln_backend::{Error, Result};
use smallvec::{SmallVec, smallvec};

use super::{
    fused_relu::{FusedReluBackward, ReluBackwardDone},
    saved::SavedTensor,
};
use crate::tensor::Tensor;

/// Gradients of a node's inputs, in their order; `None` where there is none.
pub(crate) type Grads = SmallVec<[Option<Tensor>; 3]>;

/// The gradient of an operation's only input.
pub(crate) fn one(grad: Tensor) -> Grads {
    smallvec![Some(grad)]
}

/// What has arrived for a node in a pass.
pub(crate) struct Arrived {
    /// The gradient of each output.
    pub grads: SmallVec<[Option<Tensor>; 1]>,
    /// If the gradient of the only output has gone through the node's ReLU already.
    pub relu_done: Option<ReluBackwardDone>,
}

/// What a rule sees when it runs: the incoming gradient, the saved tensors, and which gradients are wanted.
pub(crate) struct Ctx<'a> {
    /// The node's name.
    pub name: &'a str,
    pub arrived: &'a Arrived,
    pub saved: &'a [SavedTensor],
    /// For each input whether its gradient is wanted.
    pub needs: &'a [bool],
    /// If the first input is the output of a ReLU, whose gradient this rule may compute as well.
    pub fused_relu: Option<&'a FusedReluBackward>,
}

impl Ctx<'_> {
    /// The gradient of the (first) output.
    pub fn grad(&self) -> Result<Tensor> {
        match self.arrived.grads.first() {
            Some(Some(grad)) => Ok(grad.clone()),
            _ => Err(Error::autograd(self.name, "no gradient arrived for its output")),
        }
    }

    /// Saved tensor `i`, if nobody changed it since.
    pub fn saved(&self, i: usize) -> Result<Tensor> {
        let Some(saved) = self.saved.get(i) else {
            return Err(Error::autograd(self.name, format!("has no saved tensor {i}")));
        };
        saved.unchanged().ok_or_else(|| {
            let (now, then) = saved.versions();
            let message = format!(
                "a tensor of shape {} that its gradient needs was changed by an in-place operation: it is at version {now}, \
                 version {then} was expected; change a `copy()` instead",
                saved.shape()
            );
            Error::autograd(self.name, message)
        })
    }

    /// If [`grad`](Ctx::grad) is that of the input of this node's ReLU already: what was computed with it.
    pub fn relu_done(&self) -> Option<&ReluBackwardDone> {
        self.arrived.relu_done.as_ref()
    }

    /// Whether the gradient of input `i` is wanted.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// Calls `f` only if the gradient of input `i` is wanted.
    pub fn when(&self, i: usize, f: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
        if self.needs(i) { f().map(Some) } else { Ok(None) }
    }
}

/// A rule: from the gradients of the outputs to those of the inputs, in the order of the inputs.
pub(crate) type Rule = Box<dyn Fn(&Ctx<'_>) -> Result<Grads> + Send + Sync>;
