//! Element-wise operations of one tensor, and their gradients.

use crate::{
    backend::{View, ViewMut},
    error::Result,
    op::UnaryOp,
};

/// Element-wise operations of one tensor.
pub trait UnaryBackend {
    /// Computes floats; for integers, only the operations that [`UnaryOp::integers`] lists as computed or unchanged.
    fn unary(&self, op: UnaryOp, x: View, out: ViewMut) -> Result<()>;
    /// The gradient of `op`, from the incoming gradient and the tensor that [`UnaryOp::saved`] names (`None` for
    /// nothing).
    fn unary_grad(&self, op: UnaryOp, grad: View, saved: Option<View>, out: ViewMut) -> Result<()>;
}
