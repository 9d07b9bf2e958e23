//! Linear layers with bias and ReLU, and their gradients.

use std::{any::Any, fmt};

use crate::{
    Arguments, Error, Layout, MatmulBackend, MemoryBackend, ReduceBackend, ReduceOp, ReluBiasGradArgs,
    ReluBiasGradBackend, Result, UnaryOp, View, ViewMut, has_shape,
};

/// Checks the operands of `out = x · wᵀ + bias` and returns `[M, N, K]`.
///
/// # Errors
/// `x` is not `[M, K]`, `w` `[N, K]`, `bias` `[N]`, or `out` `[M, N]`.
pub fn linear_extents(
    op: &'static str,
    x: &Layout,
    w: &Layout,
    bias: Option<&Layout>,
    out: &Layout,
) -> Result<[usize; 3]> {
    let (&[m, k], &[n, inner]) = (x.dims(), w.dims()) else {
        return Err(Error::shapes(op, x.shape(), w.shape(), "they must be [M, K] and [N, K]"));
    };
    if inner != k {
        return Err(Error::shapes(op, x.shape(), w.shape(), "they must be [M, K] and [N, K]"));
    }
    has_shape(op, "an output [M, N]", out, &[m, n])?;
    bias.map_or(Ok(()), |bias| has_shape(op, "a bias [N]", bias, &[n]))?;
    Ok([m, n, k])
}

/// Which elements a ReLU let through, in a form that only the device that made it knows.
pub struct ReluMask(Box<dyn Any + Send + Sync>);

impl ReluMask {
    /// A mask in the device's form.
    pub fn new(mask: impl Any + Send + Sync) -> ReluMask {
        ReluMask(Box::new(mask))
    }

    /// The mask, for the device that made it.
    #[must_use]
    pub fn get<M: Any>(&self) -> Option<&M> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for ReluMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReluMask")
    }
}

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
    /// [`linear`](LinearBackend::linear) with ReLU, whose gradient will be asked for: the device may keep which elements ReLU
    /// let through, for [`linear_relu_grad`](LinearBackend::linear_relu_grad).
    fn linear_relu(&self, x: View, w: View, bias: Option<View>, out: ViewMut) -> Result<Option<ReluMask>> {
        self.linear(x, w, bias, true, out)?;
        Ok(None)
    }
    /// Backward through a linear layer and the ReLU (and bias) of the previous one, whose output `y` was its input:
    /// `out = grad · w` where `y` is above 0 and 0 elsewhere, and `bias` the sum of `out`'s rows. `grad` is `[M, N]`,
    /// `w` `[N, K]`, `y` and `out` `[M, K]`, `bias` `[K]`; `mask` is what the device kept of that ReLU.
    fn linear_relu_grad(
        &self,
        grad: View,
        w: View,
        y: View,
        _mask: Option<&ReluMask>,
        out: ViewMut,
        bias: Option<ViewMut>,
    ) -> Result<()> {
        linear_relu_grad_in_parts(self, grad, w, y, out, bias)
    }
}

/// [`linear_relu_grad`](LinearBackend::linear_relu_grad) as a product, and ReLU's gradient after it.
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
        Some(bias) => on.relu_bias_grad(ReluBiasGradArgs { grad: whole, y, dim: 1, out, bias }.checked()?),
        None => on.unary_grad(UnaryOp::Relu, whole, Some(y), out),
    }
}
