//! Functions of one tensor.

use kiln_backend::{Error, Result, UnaryOp, View, ViewMut};

pub(crate) fn unary(_op: UnaryOp, _x: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("unary", "not written yet"))
}

pub(crate) fn unary_grad(_op: UnaryOp, _grad: View, _saved: Option<View>, _out: ViewMut) -> Result<()> {
    Err(Error::argument("unary_grad", "not written yet"))
}
