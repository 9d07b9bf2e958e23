//! Gradient rules: what a rule receives, and what it returns.

use std::sync::Arc;

use kiln_backend::{DType, Error, Result};
use smallvec::{SmallVec, smallvec};

use super::{
    fused_relu::{FusedReluBackward, ReluBackwardDone},
    node::{Edge, Node},
    saved::{Role, SavedTensor},
};
use crate::tensor::Tensor;

/// Gradients of a node's inputs, in order; `None` where there is none.
pub(crate) type Grads = SmallVec<[Option<Tensor>; 3]>;

/// The gradient of an operation with a single input.
pub(crate) fn one(grad: Tensor) -> Grads {
    smallvec![Some(grad)]
}

/// The gradients that have arrived for a node in a pass.
pub(crate) struct Arrived {
    /// The gradient of each output.
    pub grads: SmallVec<[Option<Tensor>; 1]>,
    /// Set if the gradient of the only output has already gone through the node's ReLU.
    pub relu_done: Option<ReluBackwardDone>,
    /// Set if the gradient of the only output is 1, and no tensor was made of it.
    pub is_unit: bool,
}

/// The context of a rule: the incoming gradient, the saved tensors, and which gradients are needed.
pub(crate) struct Ctx<'a> {
    pub node: &'a Arc<Node>,
    pub arrived: &'a Arrived,
    pub saved: &'a [SavedTensor],
    /// For each input, whether its gradient is needed.
    pub needs: &'a [bool],
    /// Whether the rule's own operations are recorded, for gradients of gradients. If so, it must call operations on
    /// tensors; otherwise it may call primitives of a backend, which are not recorded on the tape.
    pub create_graph: bool,
    /// Set if the first input is the output of a ReLU whose gradient this rule may compute as well.
    pub fused_relu: Option<&'a FusedReluBackward>,
}

impl Ctx<'_> {
    /// The gradient of the (first) output.
    pub fn grad(&self) -> Result<Tensor> {
        match self.arrived.grads.first() {
            Some(Some(grad)) => Ok(grad.clone()),
            _ => Err(Error::autograd(self.node.name(), "no gradient arrived for its output")),
        }
    }

    /// The gradient of output `i`, if one has arrived.
    pub fn grad_of(&self, i: usize) -> Option<Tensor> {
        self.arrived.grads.get(i).cloned().flatten()
    }

    /// Whether the gradient of the only output is 1, and there is no tensor of it: only for nodes that
    /// [know what follows](Node::knows_unit_grad).
    pub fn grad_is_unit(&self) -> bool {
        self.arrived.is_unit
    }

    /// Saved tensor `i`, if it was not changed since.
    pub fn saved(&self, i: usize) -> Result<Tensor> {
        let name = self.node.name();
        let Some(saved) = self.saved.get(i) else {
            return Err(Error::autograd(name, format!("has no saved tensor {i}")));
        };
        let tensor = saved.unchanged().ok_or_else(|| {
            let (now, then) = saved.versions();
            let message = format!(
                "a tensor of shape {} that its gradient needs was changed by an in-place operation: it is at version {now}, \
                 version {then} was expected; change a `copy()` instead",
                saved.shape()
            );
            Error::autograd(name, message)
        })?;
        if !self.create_graph {
            return Ok(tensor);
        }
        self.with_history(tensor, saved.role).ok_or_else(|| {
            let message = format!(
                "its gradient has no gradient (`create_graph`): it reads saved tensor {i}, which is neither an input nor the \
                 output, so how it depends on the inputs is not known"
            );
            Error::autograd(name, message)
        })
    }

    /// A saved tensor, with the history that it had when the node saved it. `None` if gradients would have to flow to it and
    /// its history is not known.
    fn with_history(&self, tensor: Tensor, role: Role) -> Option<Tensor> {
        let edge = match role {
            Role::Input(input) => self.node.edges.get(input)?.clone(),
            Role::Output => Some(Edge::Node { node: self.node.clone(), output: 0 }),
            Role::Other => return (!tensor.dtype().is_float()).then_some(tensor),
        };
        match edge {
            None => {}
            Some(Edge::Leaf(leaf)) => return Some(leaf),
            Some(Edge::Node { node, output }) => tensor.set_history(node, output),
        }
        Some(tensor)
    }

    /// Saved tensor `i`, which does not depend on the inputs: gradients of gradients stop there.
    pub fn constant(&self, i: usize) -> Result<Tensor> {
        Ctx { create_graph: false, ..*self }.saved(i)
    }

    /// If [`grad`](Ctx::grad) is already that of the input of this node's ReLU: what was computed along with it.
    pub fn relu_done(&self) -> Option<&ReluBackwardDone> {
        self.arrived.relu_done.as_ref()
    }

    /// Whether the gradient of input `i` is needed.
    pub fn needs(&self, i: usize) -> bool {
        self.needs.get(i).copied().unwrap_or(false)
    }

    /// Whether the gradient of input `i` in this dtype may be left to the leaf that it goes to, which
    /// [converts it](Tensor::grad) when it is read.
    pub fn leaf_converts(&self, i: usize, dtype: DType) -> bool {
        let leaf = |edge: &Option<Edge>| match edge {
            Some(Edge::Leaf(leaf)) => leaf.defers_conversion_of(dtype),
            _ => false,
        };
        !self.create_graph && self.node.edges.get(i).is_some_and(leaf)
    }

    /// Calls `f` only if the gradient of input `i` is needed.
    pub fn when(&self, i: usize, f: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
        if self.needs(i) { f().map(Some) } else { Ok(None) }
    }
}

/// A gradient rule: from the gradients of the outputs to those of the inputs, in input order.
pub(crate) type Rule = Box<dyn Fn(&Ctx<'_>) -> Result<Grads> + Send + Sync>;
