//! Element-wise functions of one tensor, and their gradients.

use crate::{Result, UnaryOp, View, ViewMut};

/// Element-wise functions of one tensor.
pub trait UnaryBackend {
    /// Floats; `Neg`, `Abs`, `Sign`, `Square`, `Relu` and the roundings also of integers.
    fn unary(&self, op: UnaryOp, x: View, out: ViewMut) -> Result<()>;
    /// The gradient of `op` from the incoming gradient and what the table says is saved (`None` for
    /// nothing).
    fn unary_grad(&self, op: UnaryOp, grad: View, saved: Option<View>, out: ViewMut) -> Result<()>;
}
