//! Filling.

use kiln_backend::{Error, Ramp, Result, Scalar, ViewMut};

pub(crate) fn fill(_value: Scalar, _out: ViewMut) -> Result<()> {
    Err(Error::argument("fill", "not written yet"))
}

pub(crate) fn ramp(_ramp: Ramp, _out: ViewMut) -> Result<()> {
    Err(Error::argument("ramp", "not written yet"))
}
