//! `where_cond`: element-wise choice between two operands.

use crate::{
    backend::{Operand, View, ViewMut},
    error::Result,
};

/// Chooses between two operands.
pub trait WhereCondBackend {
    /// `a` where `condition` (a `bool` tensor) is true, else `b`.
    fn where_cond(&self, condition: View, a: Operand, b: Operand, out: ViewMut) -> Result<()>;
}
