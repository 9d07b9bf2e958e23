//! Linear layers with bias and ReLU, and their gradients.

use crate::{
    Layout, MatmulBackend, MemoryBackend, ReduceBackend, ReduceOp, ReluBiasGradBackend, Result, UnaryOp, View, ViewMut,
};

/// Linear layers: a product with what comes right after or before it.
pub trait LinearBackend: MatmulBackend + ReduceBackend + ReluBiasGradBackend + MemoryBackend {
    /// `out = x · wᵀ + bias`, then ReLU if asked: `x` is `[M, K]`, `w` `[N, K]`, `bias` `[N]`, `out` `[M, N]`.
    fn linear(&self, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()>;
    /// The gradients of a linear layer's parameters from its incoming one: `weight = gradᵀ · x`, and `bias` the sum of
    /// `grad`'s rows. `grad` is `[M, N]`, `x` `[M, K]`, `weight` `[N, K]`, `bias` `[N]`.
    fn linear_grad(&self, grad: View, x: View, weight: ViewMut, bias: ViewMut) -> Result<()> {
        self.matmul(View { layout: &grad.layout.transpose(0, 1), ..grad }, x, weight)?;
        let row = bias.layout.unsqueeze(0)?;
        self.reduce(ReduceOp::Sum, grad, ViewMut { layout: &row, ..bias })
    }
    /// Bytes (elements of `u8`) of the mask that [`linear_relu_masked`](LinearBackend::linear_relu_masked) leaves for an output
    /// of so many rows and columns; 0 on devices that leave none.
    fn relu_mask_len(&self, _rows: usize, _columns: usize) -> usize {
        0
    }
    /// [`linear`](LinearBackend::linear) with ReLU, which also leaves in `mask` which elements ReLU let through, in a form that
    /// only [`linear_relu_grad`](LinearBackend::linear_relu_grad) of the same device reads. `false`: all but the mask was done.
    fn linear_relu_masked(&self, x: View, w: View, bias: Option<View>, out: ViewMut, _mask: ViewMut) -> Result<bool> {
        self.linear(x, w, bias, true, out)?;
        Ok(false)
    }
    /// Backwards through a linear layer and the ReLU (and bias) of the layer beneath it, whose output `y` was its input:
    /// `out = grad · w` where `y` is above 0 and 0 elsewhere, and `bias` the sum of `out`'s rows. `grad` is `[M, N]`,
    /// `w` `[N, K]`, `y` and `out` `[M, K]`, `bias` `[K]`; `mask` is what the layer beneath has left of its ReLU.
    fn linear_relu_grad(
        &self,
        grad: View,
        w: View,
        y: View,
        _mask: Option<View>,
        out: ViewMut,
        bias: Option<ViewMut>,
    ) -> Result<()> {
        linear_relu_grad_in_parts(self, grad, w, y, out, bias)
    }
}

/// [`Backend::linear_relu_grad`] as a product and what is left to do after it.
///
/// # Errors
/// Those of the device.
pub fn linear_relu_grad_in_parts<B: LinearBackend + ?Sized>(
    on: &B,
    grad: View,
    w: View,
    y: View,
    out: ViewMut,
    bias: Option<ViewMut>,
) -> Result<()> {
    let layout = Layout::contiguous(*out.layout.shape());
    let mut whole = on.alloc(grad.dtype(), layout.numel())?;
    on.matmul(grad, w, ViewMut { buffer: &mut *whole, layout: &layout })?;
    let whole = View { buffer: &*whole, layout: &layout };
    match bias {
        Some(bias) => on.relu_bias_grad(whole, y, 1, out, bias),
        None => on.unary_grad(UnaryOp::Relu, whole, Some(y), out),
    }
}
