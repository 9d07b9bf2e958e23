//! Softmax and log-softmax.

use crate::{
    contract::{Arguments, Checked, has_dim, has_dtype, is_float, same_shape},
    error::Result,
    view::{View, ViewMut},
};

/// Arguments of [`softmax`](SoftmaxBackend::softmax).
#[derive(Debug)]
pub struct SoftmaxArgs<'a> {
    /// The logits.
    pub x: View<'a>,
    /// The dimension along which they are normalized.
    pub dim: usize,
    /// Whether to compute log-softmax.
    pub log: bool,
    /// The result, in the shape of `x`.
    pub out: ViewMut<'a>,
}

/// Arguments of [`softmax_grad`](SoftmaxBackend::softmax_grad).
#[derive(Debug)]
pub struct SoftmaxGradArgs<'a> {
    /// The gradient of `y`.
    pub grad: View<'a>,
    /// The result of [`softmax`](SoftmaxBackend::softmax).
    pub y: View<'a>,
    /// The dimension along which it is normalized.
    pub dim: usize,
    /// Whether `y` is a log-softmax.
    pub log: bool,
    /// Receives the gradient of the logits, in the shape of `y`.
    pub out: ViewMut<'a>,
}

/// The name for errors: that of the tensor's method.
#[must_use]
pub fn softmax_name(log: bool) -> &'static str {
    if log { "log_softmax" } else { "softmax" }
}

impl Arguments for SoftmaxArgs<'_> {
    fn check(&self) -> Result<()> {
        let op = softmax_name(self.log);
        let SoftmaxArgs { x, dim, out, .. } = self;
        is_float(op, x.dtype())?;
        has_dtype(op, x.dtype(), out.dtype())?;
        same_shape(op, &[x.layout, out.layout])?;
        has_dim(op, x.layout, *dim)
    }
}

impl Arguments for SoftmaxGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let op = softmax_name(self.log);
        let SoftmaxGradArgs { grad, y, dim, out, .. } = self;
        is_float(op, y.dtype())?;
        has_dtype(op, y.dtype(), grad.dtype())?;
        has_dtype(op, y.dtype(), out.dtype())?;
        same_shape(op, &[y.layout, grad.layout, out.layout])?;
        has_dim(op, y.layout, *dim)
    }
}

/// Softmax and log-softmax.
pub trait SoftmaxBackend {
    /// Softmax or log-softmax along a dimension.
    fn softmax(&self, args: Checked<SoftmaxArgs>) -> Result<()>;
    /// The gradient of [`softmax`](SoftmaxBackend::softmax), computed from its output.
    fn softmax_grad(&self, args: Checked<SoftmaxGradArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let (matrix, vector) = (layout(&[2, 3]), layout(&[6]));
        let check = |dtype, dim, to, out| {
            let (memory, mut target) = (Memory(dtype), Memory(to));
            let (x, log) = (memory.view(&matrix), false);
            let forward = SoftmaxArgs { x, dim, log, out: target.view_mut(out) }.check().is_ok();
            let backward = SoftmaxGradArgs { grad: x, y: x, dim, log, out: target.view_mut(out) }.check().is_ok();
            assert_eq!(forward, backward);
            forward
        };
        assert!(check(DType::F16, 1, DType::F16, &matrix) && !check(DType::F16, 2, DType::F16, &matrix));
        assert!(!check(DType::F16, 1, DType::F16, &vector) && !check(DType::F16, 1, DType::F32, &matrix));
        assert!(!check(DType::I64, 1, DType::I64, &matrix));
    }
}
