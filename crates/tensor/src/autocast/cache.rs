//! The low copies of parameters that a region of autocast keeps, so that a parameter is converted once.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Weak},
};

use kiln_backend::DType;

use crate::{
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

/// The copy of a leaf in this dtype, if it has its present values and was made as another would be made now.
pub(super) fn find(leaf: &Tensor, dtype: DType) -> Option<Tensor> {
    let (version, captured) = (leaf.version(), is_capturing());
    COPIES.with_borrow(|copies| {
        let copy = copies.get(&(leaf.id(), dtype))?;
        let is_it = std::ptr::eq(copy.leaf.as_ptr(), Arc::as_ptr(&leaf.0));
        (is_it && copy.version == version && copy.captured == captured).then(|| copy.low.clone())
    })
}

/// Keeps the copy that was made of a leaf when it had this version.
pub(super) fn insert(leaf: &Tensor, version: u32, low: Tensor) {
    let key = (leaf.id(), low.dtype());
    let copy = Copy { leaf: Arc::downgrade(&leaf.0), version, low, captured: is_capturing() };
    let old = COPIES.with_borrow_mut(|copies| copies.insert(key, copy));
    drop(old);
}
