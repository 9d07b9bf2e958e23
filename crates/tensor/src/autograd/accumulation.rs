//! Accumulation of gradients: those that arrive at the same tensor are added up.
//!
//! Under autocast the gradient of a parameter in `f32` is computed in half precision. The first one that arrives is kept as it
//! is: the optimizer's launch reads it so, and [`Tensor::grad`] converts it. Whatever is added to it is added in `f32`, so sums
//! are those of converted gradients.

use std::sync::Arc;

use kiln_backend::{BinaryOp, DType, Result};

use super::mode::grad_enabled;
use crate::{
    captured::{is_grad_new, note_grad_read},
    tensor::Tensor,
};

/// Adds a gradient to a tensor's `grad`: in place, unless the pass is recorded (`create_graph`). The first one is moved
/// there if there is no other handle to it.
pub(crate) fn accumulate(leaf: &Tensor, grad: Tensor) -> Result<()> {
    note_grad_read(leaf);
    if let Some(sum) = leaf.converted_grad()? {
        if grad_enabled() {
            return leaf.set_grad(Some(sum.add(&grad)?));
        }
        return sum.assign(BinaryOp::Add, &in_dtype(grad, leaf.dtype())?);
    }
    // A captured step that adds to what it finds is valid for that tensor, and one that is converted when it is read is not the
    // same afterwards.
    let grad = if is_grad_new(leaf) { grad } else { in_dtype(grad, leaf.dtype())? };
    let own = if is_exclusive(&grad) { grad } else { grad.copy()? };
    {
        let mut meta = leaf.0.meta.lock();
        if meta.grad.is_none() {
            meta.grad = Some(own);
            return Ok(());
        }
    }
    // Another thread's backward pass came first.
    accumulate(leaf, own)
}

/// A gradient in the dtype of its leaf.
fn in_dtype(grad: Tensor, dtype: DType) -> Result<Tensor> {
    if grad.dtype() == dtype { Ok(grad) } else { grad.converted_in_order(dtype) }
}

/// Adds to a gradient that is still being propagated, in place if there is no other handle to it and nothing is recorded.
pub(crate) fn add_to(sum: &mut Tensor, grad: &Tensor) -> Result<()> {
    if !grad_enabled() && is_exclusive(sum) {
        return sum.assign(BinaryOp::Add, grad);
    }
    *sum = sum.add(grad)?;
    Ok(())
}

/// Whether this handle is the only one to its memory, and covers all of it in row-major or channels-last order.
fn is_exclusive(tensor: &Tensor) -> bool {
    Arc::strong_count(&tensor.0) == 1
        && Arc::strong_count(&tensor.0.storage) == 1
        && (tensor.is_contiguous() || tensor.is_channels_last())
        && tensor.numel() == tensor.0.storage.len
}
