//! Operands in a low dtype: parameters are converted once in a region.

use kiln_backend::{DType, Result};

use super::{cache, kept::kept};
use crate::{
    autograd::{grad_enabled, is_tracing},
    tensor::Tensor,
};

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
    match cache::find(tensor, dtype) {
        // A copy that was made without recording has no history.
        Some(low) if low.requires_grad() || !grad_enabled() => return Ok(low),
        _ => {}
    }
    let version = tensor.version();
    let low = match kept(tensor, dtype)? {
        Some(copy) => tensor.cast_to(copy)?,
        None => tensor.to_dtype(dtype)?,
    };
    cache::insert(tensor, version, low.clone());
    Ok(low)
}
