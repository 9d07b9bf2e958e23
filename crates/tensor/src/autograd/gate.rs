//! ReLU's gradient, taken one node early.
//!
//! A product that computes the gradient of what ReLU gave can make it, while it is at it, the gradient of what ReLU read,
//! and sum it for the bias in front of that ReLU (cuBLASLt's DRELU_BGRAD). On the tape these are two nodes, and what is
//! handed from the one to the other is then no longer the gradient of the tensor between them. So a node's gate opens only
//! where nobody can tell: the node above is all that reads this output, nothing has arrived for it yet, and no hook, no
//! `retain_grad` and no target of `autograd::grad` asks for its gradient.

use std::{
    cell::OnceCell,
    sync::{Arc, atomic::Ordering},
};

use kiln_backend::ReluMask;

use super::node::{Edge, Node};
use crate::Tensor;

/// For a node whose operation ends in ReLU: what takes its gradient through that ReLU.
#[derive(Clone)]
pub(crate) struct Gate {
    /// Where among the tensors that the node saved the one is that ReLU gave.
    pub output: usize,
    /// Which elements it let through, in the device's own form.
    pub mask: Arc<ReluMask>,
    /// Whether a bias in front of it wants a gradient.
    pub bias: bool,
}

/// A gate that the rule of the node above may go through.
pub(crate) struct OpenGate {
    pub output: Tensor,
    pub mask: Arc<ReluMask>,
    pub bias: bool,
    passed: OnceCell<Passed>,
}

/// What came through a gate besides the gradient itself.
pub(crate) struct Passed {
    /// The gradient of the bias, if the gate has one.
    pub bias: Option<Tensor>,
}

impl OpenGate {
    /// The rule's gradient for its first input is that of what ReLU read.
    pub fn pass(&self, bias: Option<Tensor>) {
        // Only the first call counts; a rule goes through once.
        let _ = self.passed.set(Passed { bias });
    }

    /// What the rule has passed, if it did.
    pub fn into_passed(self) -> Option<Passed> {
        self.passed.into_inner()
    }
}

impl Node {
    /// The gate of the node that the gradient of the first input goes to, if that node has one and the gradient between
    /// the two is nobody else's concern. `awaited` says of an edge whether something has arrived there already, or its
    /// gradient is asked for.
    pub fn gate_below(&self, awaited: impl Fn(&Edge, &Node) -> bool) -> Option<OpenGate> {
        let Some(Some(edge @ Edge::Node { node: below, output: 0 })) = self.edges.first() else { return None };
        let gate = below.gate.lock().clone()?;
        let alone = below.consumers.load(Ordering::Relaxed) == 1;
        if !alone || !below.hooks.lock().is_empty() || awaited(edge, below) {
            return None;
        }
        // Where it is gone or was changed, the node's own rule says so.
        let output = below.kept()?.get(gate.output)?.unchanged()?;
        Some(OpenGate { output, mask: gate.mask, bias: gate.bias, passed: OnceCell::new() })
    }
}
