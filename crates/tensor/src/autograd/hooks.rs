//! Registering hooks, and `retain_grad`.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use kiln_backend::{Error, Result};
use kiln_derive::located;

use super::{
    hook::{Action, Hook, OutputHook},
    node::{Edge, Node},
    post_accumulate::{self, BackwardPass, PostHook},
};
use crate::tensor::{Inner, Tensor};

enum Place {
    Leaf(Weak<Inner>),
    Node(Weak<Node>),
}

/// A registered hook. [`remove`](HookHandle::remove) removes it; dropping the handle leaves it in place.
pub struct HookHandle {
    id: u64,
    place: Place,
}

impl HookHandle {
    /// Removes the hook.
    pub fn remove(self) {
        match self.place {
            Place::Leaf(tensor) => {
                if let Some(tensor) = tensor.upgrade() {
                    let mut meta = tensor.meta.lock();
                    meta.hooks.retain(|hook| hook.id != self.id);
                    meta.post_accumulate.retain(|hook| hook.id != self.id);
                }
            }
            Place::Node(node) => {
                if let Some(node) = node.upgrade() {
                    node.hooks.lock().retain(|hook| !matches!(&hook.action, Action::Call(h) if h.id == self.id));
                }
            }
        }
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

#[located(site)]
impl Tensor {
    /// Calls `hook` with every gradient that arrives at this tensor in a backward pass. The gradient that it returns
    /// replaces the original; `None` leaves it.
    ///
    /// # Errors
    /// If the tensor requires no gradients.
    pub fn register_hook(
        &self,
        hook: impl Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync + 'static,
    ) -> Result<HookHandle> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let hook = Hook { id, run: Arc::new(hook) };
        let place = match self.edge() {
            None => return Err(Error::autograd("register_hook", "the tensor requires no gradients")),
            Some(Edge::Leaf(leaf)) => {
                leaf.0.meta.lock().hooks.push(hook);
                Place::Leaf(Arc::downgrade(&leaf.0))
            }
            Some(Edge::Node { node, output }) => {
                node.hooks.lock().push(OutputHook { output, action: Action::Call(hook) });
                Place::Node(Arc::downgrade(&node))
            }
        };
        Ok(HookHandle { id, place })
    }

    /// Calls `hook` in every backward pass that adds to this leaf's [`grad`](Tensor::grad), after the last gradient of the
    /// pass is added and while the pass continues
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.register_post_accumulate_grad_hook.html>). It may
    /// replace the gradient with [`set_grad`](Tensor::set_grad). An error ends the pass.
    ///
    /// # Errors
    /// If the tensor is not a leaf, or requires no gradients.
    pub fn register_post_accumulate_grad_hook(
        &self,
        hook: impl Fn(&Tensor, &BackwardPass) -> Result<()> + Send + Sync + 'static,
    ) -> Result<HookHandle> {
        const OP: &str = "register_post_accumulate_grad_hook";
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        match self.edge() {
            None => Err(Error::autograd(OP, "the tensor requires no gradients")),
            Some(Edge::Node { .. }) => Err(Error::autograd(OP, "the tensor is the result of an operation, not a leaf")),
            Some(Edge::Leaf(leaf)) => {
                post_accumulate::register(&leaf, PostHook { id, run: Arc::new(hook) });
                Ok(HookHandle { id, place: Place::Leaf(Arc::downgrade(&leaf.0)) })
            }
        }
    }

    /// Keeps this tensor's gradient in [`grad`](Tensor::grad) although it is not a leaf. Does nothing for a leaf.
    ///
    /// # Errors
    /// If the tensor requires no gradients.
    pub fn retain_grad(&self) -> Result<()> {
        match self.edge() {
            None => Err(Error::autograd("retain_grad", "the tensor requires no gradients")),
            Some(Edge::Leaf(_)) => Ok(()),
            Some(Edge::Node { node, output }) => {
                let kept =
                    |hook: &OutputHook| matches!(&hook.action, Action::Keep(t) if t.as_ptr() == Arc::as_ptr(&self.0));
                let mut hooks = node.hooks.lock();
                if !hooks.iter().any(kept) {
                    hooks.push(OutputHook { output, action: Action::Keep(Arc::downgrade(&self.0)) });
                }
                Ok(())
            }
        }
    }
}

/// When an in-place operation gives a tensor a new history, `retain_grad` moves along.
pub(crate) fn move_kept(tensor: &Arc<Inner>, from: &Node, to: &Node, output: usize) {
    let kept = |hook: &OutputHook| matches!(&hook.action, Action::Keep(t) if t.as_ptr() == Arc::as_ptr(tensor));
    let mut hooks = from.hooks.lock();
    if hooks.iter().any(kept) {
        hooks.retain(|hook| !kept(hook));
        drop(hooks);
        to.hooks.lock().push(OutputHook { output, action: Action::Keep(Arc::downgrade(tensor)) });
    }
}
