//! Choice by a condition.

use kiln_backend::{Error, Operand, Result, View, ViewMut};

pub(crate) fn select(_condition: View, _a: Operand, _b: Operand, _out: ViewMut) -> Result<()> {
    Err(Error::argument("select", "not written yet"))
}
