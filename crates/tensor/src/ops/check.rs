//! Checks that many operations share.

use kiln_backend::{Error, Result};

use crate::Tensor;

/// All tensors are on one device.
pub(crate) fn same_device(op: &'static str, first: &Tensor, others: &[&Tensor]) -> Result<()> {
    others.iter().try_for_each(|other| {
        if other.device() == first.device() {
            return Ok(());
        }
        Err(Error::devices(op, first.device(), other.device()))
    })
}

/// All tensors are on one device and of one dtype.
pub(crate) fn same_kind(op: &'static str, first: &Tensor, others: &[&Tensor]) -> Result<()> {
    same_device(op, first, others)?;
    others.iter().try_for_each(|other| {
        if other.dtype() == first.dtype() {
            return Ok(());
        }
        Err(Error::dtypes(op, first.dtype(), other.dtype()))
    })
}

/// The tensor is of floats.
pub(crate) fn floats(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype().is_float() {
        return Ok(());
    }
    Err(Error::dtype(op, tensor.dtype(), "it takes floats; convert with `to_dtype`"))
}

/// The tensor holds indices or labels.
pub(crate) fn indices(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() == kiln_backend::DType::I64 {
        return Ok(());
    }
    Err(Error::dtype(op, tensor.dtype(), "indices are i64; convert with `to_dtype`"))
}
