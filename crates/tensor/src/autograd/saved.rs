//! What a node keeps for its backward pass.

use std::sync::Arc;

use kiln_backend::{Error, Layout, Result};

use super::{
    gate::{OpenGate, Passed},
    node::{Arrived, Grads, Node},
};
use crate::{Tensor, storage::Storage};

/// The data of a tensor without its history (so that a node never owns its own output's history, nor a
/// chain of older nodes), and the version that it had.
pub(crate) struct SavedTensor {
    storage: Arc<Storage>,
    layout: Layout,
    version: u32,
}

impl SavedTensor {
    pub fn new(tensor: &Tensor) -> SavedTensor {
        let storage = tensor.0.storage.clone();
        let version = storage.version();
        SavedTensor { storage, layout: *tensor.layout(), version }
    }

    /// The tensor, if nobody changed it since.
    pub fn unchanged(&self) -> Option<Tensor> {
        (self.storage.version() == self.version).then(|| Tensor::from_storage(self.storage.clone(), self.layout))
    }
}

/// What a rule sees when it runs: the incoming gradient, the saved tensors, and which gradients are wanted.
pub(crate) struct Ctx<'a> {
    pub node: &'a Node,
    pub arrived: &'a Arrived,
    pub saved: &'a [SavedTensor],
    /// For each input whether its gradient is wanted.
    pub needs: &'a [bool],
    /// For the first input.
    pub gate: Option<&'a OpenGate>,
}

impl Ctx<'_> {
    /// The gradient of the (first) output.
    pub fn grad(&self) -> Result<Tensor> {
        match self.arrived.grads.first() {
            Some(Some(grad)) => Ok(grad.clone()),
            _ => Err(Error::autograd(self.node.name(), "no gradient arrived for its output")),
        }
    }

    /// Saved tensor `i`, if nobody changed it since.
    pub fn saved(&self, i: usize) -> Result<Tensor> {
        let Some(saved) = self.saved.get(i) else {
            return Err(Error::autograd(self.node.name(), format!("has no saved tensor {i}")));
        };
        saved.unchanged().ok_or_else(|| {
            let message = format!(
                "a tensor of shape {} that its gradient needs was changed by an in-place operation: it is at version {}, \
                 version {} was expected; change a `copy()` instead",
                saved.layout.shape(),
                saved.storage.version(),
                saved.version
            );
            Error::autograd(self.node.name(), message)
        })
    }

    /// If [`grad`](Ctx::grad) has gone through the ReLU of this node already, what came with it.
    pub fn passed(&self) -> Option<&Passed> {
        self.arrived.passed.as_ref()
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
