//! The autograd side of [`Tensor`]: whether it requires gradients, its gradient, and its history.

use std::sync::{Arc, atomic::Ordering};

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::{
    hooks::move_kept,
    node::{Edge, Node},
    record::as_strided_node,
};
use crate::{
    captured::{note_grad_read, note_grad_replaced},
    tensor::Tensor,
};

#[located(site)]
impl Tensor {
    /// Whether gradients flow to it: it was requested, or the tensor was made from one for which it was.
    #[must_use]
    pub fn requires_grad(&self) -> bool {
        if let Some(base) = &self.0.view_of {
            self.refresh_view(&base.tensor, base.untraced);
        }
        self.is_tracked()
    }

    /// Whether it was made by the user rather than by a recorded operation. Gradients are accumulated in leaves.
    #[must_use]
    pub fn is_leaf(&self) -> bool {
        !matches!(self.edge(), Some(Edge::Node { .. }))
    }

    /// Sets whether gradients of this leaf are computed, in place; returns the tensor for chaining.
    /// # Errors
    /// If the tensor is not floating-point, or not a leaf.
    pub fn requires_grad_(self, requires_grad: bool) -> Result<Tensor> {
        self.set_requires_grad(requires_grad)?;
        Ok(self)
    }

    /// [`requires_grad_`](Tensor::requires_grad_) on a borrowed tensor.
    ///
    /// # Errors
    /// If the tensor is not floating-point, or not a leaf.
    pub fn set_requires_grad(&self, requires_grad: bool) -> Result<()> {
        if requires_grad && !self.dtype().is_float() {
            return Err(Error::dtype("requires_grad_", self.dtype(), "only floats can require gradients"));
        }
        if !self.is_leaf() {
            let hint = if requires_grad { "it requires them already" } else { "use `detach()` to cut it off" };
            return Err(Error::autograd(
                "requires_grad_",
                format!("only leaves can be changed, and this tensor is the result of an operation; {hint}"),
            ));
        }
        self.0.meta.lock().requires_grad = requires_grad;
        self.0.tracked.store(requires_grad, Ordering::Release);
        Ok(())
    }

    /// The gradient that backward passes have accumulated, in this tensor's dtype: `None` before the first one, and for tensors
    /// that keep none. It is a handle, not a copy.
    ///
    /// [`autocast`](fn@crate::autocast) computes gradients of `f32` parameters in half precision. They are converted here, when
    /// they are read for the first time; if there is no memory for that, the result is in half precision.
    #[must_use]
    pub fn grad(&self) -> Option<Tensor> {
        note_grad_read(self);
        self.converted_grad().unwrap_or_else(|_no_memory| self.unconverted_grad())
    }

    /// [`grad`](Tensor::grad) as the backward pass has computed it: for an `f32` tensor it may be in half precision. For code
    /// that reads either, such as [`optimizer_step`](crate::optimizer_step), and need not wait for a conversion.
    #[must_use]
    pub fn unconverted_grad(&self) -> Option<Tensor> {
        note_grad_read(self);
        self.0.meta.lock().grad.clone()
    }

    /// Whether gradients in this dtype may be left to this tensor as they are.
    pub(crate) fn defers_conversion_of(&self, grad: DType) -> bool {
        self.dtype() == DType::F32 && grad.is_half()
    }

    /// The gradient in this tensor's dtype, in which it is kept from now on.
    pub(crate) fn converted_grad(&self) -> Result<Option<Tensor>> {
        loop {
            let low = match &self.0.meta.lock().grad {
                Some(grad) if grad.dtype() != self.dtype() => grad.clone(),
                own => return Ok(own.clone()),
            };
            let own = low.converted_in_order(self.dtype())?;
            let mut meta = self.0.meta.lock();
            // Another thread may have replaced it meanwhile.
            if meta.grad.as_ref().is_some_and(|now| now.is_same(&low)) {
                let _old = meta.grad.replace(own.clone());
                drop(meta);
                return Ok(Some(own));
            }
        }
    }

    /// Replaces the gradient.
    ///
    /// # Errors
    /// If its shape, dtype or device is not the tensor's.
    pub fn set_grad(&self, grad: Option<Tensor>) -> Result<()> {
        if let Some(grad) = &grad {
            if grad.shape() != self.shape() {
                return Err(Error::shapes("set_grad", self.shape(), grad.shape(), "they must be equal"));
            }
            if grad.dtype() != self.dtype() {
                return Err(Error::dtypes("set_grad", self.dtype(), grad.dtype()));
            }
            if grad.device() != self.device() {
                return Err(Error::devices("set_grad", self.device(), grad.device()));
            }
        }
        note_grad_replaced(self);
        // The old gradient is dropped outside the lock.
        let _old = std::mem::replace(&mut self.0.meta.lock().grad, grad);
        Ok(())
    }

    /// Clears the gradient: `grad()` is `None` again, as after PyTorch's `zero_grad(set_to_none=True)`.
    pub fn zero_grad(&self) {
        note_grad_replaced(self);
        let _old = self.0.meta.lock().grad.take();
    }

    /// Where a gradient of this tensor flows to; `None` if it needs none.
    pub(crate) fn edge(&self) -> Option<Edge> {
        if let Some(base) = &self.0.view_of {
            self.refresh_view(&base.tensor, base.untraced);
        }
        if !self.is_tracked() {
            return None;
        }
        let meta = self.0.meta.lock();
        match &meta.grad_fn {
            Some((node, output)) => Some(Edge::Node { node: node.clone(), output: *output }),
            None => meta.requires_grad.then(|| Edge::Leaf(self.clone())),
        }
    }

    /// Whether this is the output of an operation that ends in a ReLU whose gradient the next one may compute.
    pub(crate) fn ends_in_relu(&self) -> bool {
        matches!(self.edge(), Some(Edge::Node { node, output: 0 }) if node.ends_in_relu())
    }

    /// If the memory was changed in place since the view's history was recorded, derives the history from the base as
    /// it is now.
    fn refresh_view(&self, base: &Tensor, untraced: bool) {
        let version = self.version();
        if untraced || self.0.meta.lock().version == version {
            return;
        }
        let node = base.edge().map(|edge| as_strided_node(self, base, edge));
        let mut meta = self.0.meta.lock();
        meta.version = version;
        if let Some(node) = node {
            meta.grad_fn = Some((node, 0));
            self.0.tracked.store(true, Ordering::Release);
        }
    }

    /// Makes `node` the history of this tensor.
    pub(crate) fn set_history(&self, node: Arc<Node>, output: usize) {
        let version = self.version();
        let old = {
            let mut meta = self.0.meta.lock();
            meta.version = version;
            meta.requires_grad = false;
            meta.grad_fn.replace((node.clone(), output))
        };
        self.0.tracked.store(true, Ordering::Release);
        if let Some((old, _)) = old {
            move_kept(&self.0, &old, &node, output);
        }
    }
}
