//! The gradient through ReLU to a bias.

use crate::{ReduceBackend, ReduceOp, Result, UnaryBackend, UnaryOp, View, ViewMut};

/// The way back through a bias and the ReLU after it.
pub trait ReluBiasGradBackend: UnaryBackend + ReduceBackend {
    /// Backwards through a bias and the ReLU behind it, where `y = relu(… + bias)` and the bias belongs to dimension
    /// `dim`: `out` is `grad` where `y` is above 0 (or NaN) and 0 elsewhere, and `bias` (`[y's extent there]`) its sums
    /// over the other dimensions. `grad`, `y` and `out` have one shape.
    fn relu_bias_grad(&self, grad: View, y: View, dim: usize, out: ViewMut, bias: ViewMut) -> Result<()> {
        self.unary_grad(UnaryOp::Relu, grad, Some(y), ViewMut { buffer: &mut *out.buffer, layout: out.layout })?;
        let mut row = *bias.layout;
        for at in 0..out.layout.rank() {
            if at != dim {
                row = row.unsqueeze(at)?;
            }
        }
        self.reduce(ReduceOp::Sum, View { buffer: &*out.buffer, layout: out.layout }, ViewMut { layout: &row, ..bias })
    }
}
