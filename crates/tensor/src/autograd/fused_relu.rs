//! Fusing ReLU's gradient into the backward pass of the next layer.
//!
//! A product or convolution that computes the gradient of a layer's input can, if that input is the output of a ReLU,
//! multiply by ReLU's mask in its epilogue, and sum the result for the bias before that ReLU (cuBLASLt's DRELU_BGRAD; a graph
//! of cuDNN). The gradient of max pooling goes through ReLU where it is smallest, at the maxima. On the tape these are two nodes, and the gradient passed from one to the other is then no longer that of the
//! tensor between them. So it is done only where this cannot be observed: the next layer is the only consumer of ReLU's output,
//! no gradient has arrived for it yet, and no hook, no `retain_grad` and no target of `autograd::grad` requests it
//! (`Node::fused_relu_below`).

use std::{cell::OnceCell, sync::Arc};

use kiln_backend::{ReluMask, Result};

use crate::tensor::Tensor;

/// The ReLU that ends a node's operation, if its gradient can be fused into the consumer's backward pass.
#[derive(Clone)]
pub(crate) struct ReluEpilogue {
    /// The index of ReLU's output among the tensors that the node saved.
    pub output: usize,
    /// The mask of the elements that passed ReLU, in a form of the device, if it was stored.
    pub mask: Option<Arc<ReluMask>>,
    /// Whether a bias before ReLU needs a gradient.
    pub bias: bool,
}

/// What a rule needs in order to compute the gradient with respect to the input of the previous node's ReLU.
pub(crate) struct FusedReluBackward {
    pub output: Tensor,
    pub mask: Option<Arc<ReluMask>>,
    pub bias: bool,
    done: OnceCell<ReluBackwardDone>,
}

/// Set if the gradient that a node receives has already gone through its ReLU.
pub(crate) struct ReluBackwardDone {
    /// The gradient of the bias, if there is one.
    pub bias: Option<Tensor>,
}

impl FusedReluBackward {
    pub fn new(epilogue: ReluEpilogue, output: Tensor) -> FusedReluBackward {
        FusedReluBackward { output, mask: epilogue.mask, bias: epilogue.bias, done: OnceCell::new() }
    }

    /// Memory for the gradient of the bias, which belongs to dimension 1, if there is one.
    pub fn bias_grad(&self) -> Result<Option<Tensor>> {
        let y = &self.output;
        self.bias.then(|| Tensor::empty(y.dims()[1], (y.dtype(), y.device()))).transpose()
    }

    /// Call when the rule's gradient for its first input is already that of ReLU's input.
    pub fn finish(&self, bias: Option<Tensor>) {
        // A rule does this once; later calls are ignored.
        let _ = self.done.set(ReluBackwardDone { bias });
    }

    /// What the rule has reported, if anything.
    pub fn into_done(self) -> Option<ReluBackwardDone> {
        self.done.into_inner()
    }
}
