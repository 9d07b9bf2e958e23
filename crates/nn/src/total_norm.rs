//! The norm of many tensors as one vector: of parameters and of gradients.

use std::borrow::Borrow;

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, Tensor, no_grad};

/// The norm of all tensors as one vector, without history, on the device of the first: `norm_type` is 2 for the Euclidean
/// norm, 1, any other `p > 0`, or `f64::INFINITY` for the largest absolute value. In `f32`, or in `f64` if one of the tensors
/// is; 0 if there are none. Does not wait for the device
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.get_total_norm.html>).
///
/// # Errors
/// If `norm_type` is not positive, a tensor is not floating-point, or memory runs out.
#[located(site)]
pub fn get_total_norm<T: Borrow<Tensor>>(tensors: impl IntoIterator<Item = T>, norm_type: f64) -> Result<Tensor> {
    const OP: &str = "get_total_norm";
    check_positive(OP, "norm_type", norm_type)?;
    let tensors: Vec<Tensor> = tensors.into_iter().map(|tensor| tensor.borrow().clone()).collect();
    if let Some(other) = tensors.iter().find(|tensor| !tensor.dtype().is_float()) {
        return Err(Error::dtype(OP, other.dtype(), "the norm of floating-point tensors"));
    }
    no_grad(|| match total_norm(&tensors, norm_type)? {
        Some(norm) => Ok(norm),
        None => Tensor::zeros((), tensors.first().map_or(Device::Cpu, Tensor::device)),
    })
}

/// An error unless `value` is positive, which also means not NaN.
pub(crate) fn check_positive(op: &'static str, what: &str, value: f64) -> Result<()> {
    if value > 0.0 { Ok(()) } else { Err(Error::argument(op, format!("{what} {value} is not positive"))) }
}

/// The existing gradients, each once: as [`Tensor::grad`] or [`Tensor::unconverted_grad`] has them.
pub(crate) fn gradients<T: Borrow<Tensor>>(
    parameters: impl IntoIterator<Item = T>,
    grad: fn(&Tensor) -> Option<Tensor>,
) -> Vec<Tensor> {
    let mut grads: Vec<Tensor> = Vec::new();
    for grad in parameters.into_iter().filter_map(|p| grad(p.borrow())) {
        if !grads.iter().any(|seen| seen.is_same(&grad)) {
            grads.push(grad);
        }
    }
    grads
}

/// The norm of all gradients as one vector; `None` if there are none. In `f32`, or `f64` if one of them is.
pub(crate) fn total_norm(grads: &[Tensor], p: f64) -> Result<Option<Tensor>> {
    let mut total: Option<Tensor> = None;
    for grad in grads.iter().filter(|grad| p != f64::INFINITY || grad.numel() > 0) {
        let wide = if grad.dtype() == DType::F64 { grad.clone() } else { grad.to_dtype(DType::F32)? };
        let part = match p {
            f64::INFINITY => wide.abs()?.amax(())?,
            1.0 => wide.abs()?.sum(())?,
            2.0 => wide.square()?.sum(())?,
            p => wide.abs()?.pow(p)?.sum(())?,
        };
        total = Some(match total {
            None => part,
            Some(total) => {
                let dtype = if total.dtype() == DType::F64 { DType::F64 } else { part.dtype() };
                let (total, part) = (total.to_dtype(dtype)?, part.to_device(total.device())?.to_dtype(dtype)?);
                if p == f64::INFINITY { total.maximum(&part)? } else { total.add(&part)? }
            }
        });
    }
    let root = |total: Tensor| match p {
        f64::INFINITY | 1.0 => Ok(total),
        2.0 => total.sqrt(),
        p => total.pow(1.0 / p),
    };
    total.map(root).transpose()
}
