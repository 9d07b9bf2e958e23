//! The low copies of parameters that a region of autocast keeps, so that a parameter is converted once.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Weak},
};

use kiln_backend::{DType, Result};

use super::kept::kept;
use crate::{
    autograd::{grad_enabled, is_tracing},
    captured::is_capturing,
    tensor::{Inner, Tensor},
};

/// The copy of a leaf.
struct Copy {
    leaf: Weak<Inner>,
    /// The version of the leaf's memory that was converted.
    version: u32,
    /// With the history that leads to the leaf if recording was on: all uses of the copy share one node, in which their
    /// gradients are summed.
    low: Tensor,
    /// Whether this is work of a captured step, whose memory is that of the graph.
    captured: bool,
}

thread_local! {
    static COPIES: RefCell<HashMap<(usize, DType), Copy>> = RefCell::default();
}

/// Forgets all copies of this thread.
pub(crate) fn clear() {
    // Dropped outside the borrow, since tensors may be dropped along with them.
    let old = COPIES.with_borrow_mut(std::mem::take);
    drop(old);
}

/// Forgets this thread's copies of a parameter that is about to change.
pub(super) fn forget(param: &Tensor) {
    let id = param.id();
    let old = COPIES.with_borrow_mut(|copies| {
        if copies.is_empty() { Vec::new() } else { copies.extract_if(|key, _| key.0 == id).collect() }
    });
    drop(old);
}

/// The tensor in a low dtype: parameters from the cache. As in PyTorch, these are leaves that require gradients, in `f32`.
pub(super) fn converted(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let is_parameter = tensor.dtype() == DType::F32
        && dtype.is_half()
        && tensor.0.view_of.is_none()
        && tensor.0.meta.lock().requires_grad;
    // A trace lists what each operation reads.
    if !is_parameter || is_tracing() {
        return tensor.to_dtype(dtype);
    }
    let (key, version, captured) = ((tensor.id(), dtype), tensor.version(), is_capturing());
    let known = COPIES.with_borrow(|copies| {
        let copy = copies.get(&key)?;
        let is_it = std::ptr::eq(copy.leaf.as_ptr(), Arc::as_ptr(&tensor.0));
        (is_it && copy.version == version && copy.captured == captured).then(|| copy.low.clone())
    });
    match known {
        // A copy that was made without recording has no history.
        Some(low) if low.requires_grad() || !grad_enabled() => return Ok(low),
        _ => {}
    }
    let low = match kept(tensor, dtype)? {
        Some(copy) => tensor.cast_to(copy)?,
        None => tensor.to_dtype(dtype)?,
    };
    let copy = Copy { leaf: Arc::downgrade(&tensor.0), version, low: low.clone(), captured };
    let old = COPIES.with_borrow_mut(|copies| copies.insert(key, copy));
    drop(old);
    Ok(low)
}
