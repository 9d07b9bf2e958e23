//! Accumulation of gradients: those that arrive at the same tensor are added up.

use std::sync::Arc;

use kiln_backend::{BinaryOp, Result};

use super::mode::grad_enabled;
use crate::{captured::note_grad_read, tensor::Tensor};

/// Adds a gradient to a tensor's `grad`: in place, unless the pass is recorded (`create_graph`). The first one is moved
/// there if there is no other handle to it.
pub(crate) fn accumulate(leaf: &Tensor, grad: Tensor) -> Result<()> {
    note_grad_read(leaf);
    let existing = leaf.0.meta.lock().grad.clone();
    if let Some(sum) = existing {
        if grad_enabled() {
            return leaf.set_grad(Some(sum.add(&grad)?));
        }
        return sum.assign(BinaryOp::Add, &grad);
    }
    let own = if is_exclusive(&grad) { grad } else { grad.copy()? };
    let previous = {
        let mut meta = leaf.0.meta.lock();
        match &meta.grad {
            // Another thread's backward pass came first.
            Some(sum) => Some(sum.clone()),
            None => {
                meta.grad = Some(own.clone());
                None
            }
        }
    };
    previous.map_or(Ok(()), |sum| sum.assign(BinaryOp::Add, &own))
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
