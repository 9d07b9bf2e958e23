//! Positions of extrema.

use kiln_backend::{ArgReduceOp, Error, Result, View, ViewMut};

pub(crate) fn arg_reduce(
    _op: ArgReduceOp,
    _x: View,
    _dim: usize,
    _values: Option<ViewMut>,
    _indices: ViewMut,
) -> Result<()> {
    Err(Error::argument("arg_reduce", "not written yet"))
}
