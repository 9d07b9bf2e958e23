//! Functions of two operands.

use kiln_backend::{BinaryOp, Error, Operand, Result, SideOf, View, ViewMut};

pub(crate) fn binary(_op: BinaryOp, _a: Operand, _b: Operand, _out: ViewMut) -> Result<()> {
    Err(Error::argument("binary", "not written yet"))
}

pub(crate) fn binary_grad(
    _op: BinaryOp,
    _side: SideOf,
    _grad: View,
    _a: Operand,
    _b: Operand,
    _out: ViewMut,
) -> Result<()> {
    Err(Error::argument("binary_grad", "not written yet"))
}

pub(crate) fn binary_assign(_op: BinaryOp, _b: Operand, _out: ViewMut) -> Result<()> {
    Err(Error::argument("binary_assign", "not written yet"))
}
