//! The autograd state of a tensor. A tensor owns its history, and the nodes of the history own tensors.

use std::sync::Arc;

use super::{hook::Hooks, node::Node, post_accumulate::PostHook};
use crate::{autocast::low_copy::LowCopy, tensor::Tensor};

/// Protected by the tensor's lock.
#[derive(Default)]
pub(crate) struct Meta {
    /// Set by the user on a leaf.
    pub requires_grad: bool,
    /// The node that made the tensor, and which output it is; `None` for a leaf.
    pub grad_fn: Option<(Arc<Node>, usize)>,
    /// For a view: the version of the memory that `grad_fn` belongs to.
    pub version: u32,
    pub grad: Option<Tensor>,
    pub hooks: Hooks,
    /// Of a parameter that autocast converts.
    pub low_copy: Option<Box<LowCopy>>,
    /// Called when a pass has added its last gradient; most tensors have none.
    pub post_accumulate: Vec<PostHook>,
}
