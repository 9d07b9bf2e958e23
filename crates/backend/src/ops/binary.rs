//! Element-wise operations of two operands, and their gradients.

use crate::{
    backend::{Operand, View, ViewMut},
    error::Result,
    op::{BinaryOp, SideOf},
};

/// Element-wise operations of two operands.
pub trait BinaryBackend {
    /// Arithmetic in the operands' dtype (`Div`, `Atan2` of floats only; no arithmetic of `bool`);
    /// comparisons of any dtype write `bool`. At least one operand is a tensor.
    fn binary(&self, op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()>;
    /// The gradient of an arithmetic `op` with respect to one operand.
    fn binary_grad(&self, op: BinaryOp, side: SideOf, grad: View, a: Operand, b: Operand, out: ViewMut) -> Result<()>;
    /// `out = op(out, b)`.
    fn binary_assign(&self, op: BinaryOp, b: Operand, out: ViewMut) -> Result<()>;
}
