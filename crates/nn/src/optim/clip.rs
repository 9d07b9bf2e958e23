//! Gradient clipping, by norm and by value.

use std::borrow::Borrow;

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor, no_grad};

use crate::total_norm::{check_positive, gradients, total_norm};

/// Scales the gradients of `parameters` together so that their norm is at most `max_norm`, and returns their original
/// norm: that of all gradients as one vector. `norm_type` is 2 for the Euclidean norm, 1, any other `p > 0`, or
/// `f64::INFINITY` for the largest absolute value
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html>).
///
/// Does not wait for the device: read the norm with `item()` when it is needed. Half-precision gradients are summed in
/// `f32`. A NaN or infinite norm makes gradients NaN or zero; check for it in order to skip the step.
///
/// # Errors
/// If `max_norm` or `norm_type` is not positive, or a gradient is not floating-point.
#[located(site)]
pub fn clip_grad_norm_<T: Borrow<Tensor>>(
    parameters: impl IntoIterator<Item = T>,
    max_norm: f64,
    norm_type: f64,
) -> Result<Tensor> {
    const OP: &str = "clip_grad_norm_";
    check_positive(OP, "max_norm", max_norm)?;
    check_positive(OP, "norm_type", norm_type)?;
    let grads = gradients(parameters, Tensor::grad);
    no_grad(|| {
        let Some(total) = total_norm(&grads, norm_type)? else { return Tensor::zeros((), kiln_tensor::Device::Cpu) };
        // Without a branch on a value on the device: a factor of 1 leaves the gradients unchanged.
        let factor = total.add(1e-6)?.reciprocal()?.mul(max_norm)?.minimum(1.0)?;
        for grad in &grads {
            grad.mul_(&factor.to_device(grad.device())?.to_dtype(grad.dtype())?)?;
        }
        Ok(total)
    })
}

/// Clamps each value of the gradients of `parameters` to `-clip_value..=clip_value`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_value_.html>).
///
/// # Errors
/// If `clip_value` is negative or NaN, or a gradient is not floating-point.
#[located(site)]
pub fn clip_grad_value_<T: Borrow<Tensor>>(parameters: impl IntoIterator<Item = T>, clip_value: f64) -> Result<()> {
    if clip_value.is_nan() || clip_value < 0.0 {
        return Err(Error::argument("clip_grad_value_", format!("clip_value {clip_value} is negative")));
    }
    let grads = gradients(parameters, Tensor::grad);
    no_grad(|| grads.iter().try_for_each(|g| g.copy_(&g.minimum(clip_value)?.maximum(-clip_value)?)))
}
