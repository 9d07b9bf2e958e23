//! Softmax.

use kiln_backend::{Error, Result, View, ViewMut};

pub(crate) fn softmax(_x: View, _dim: usize, _log: bool, _out: ViewMut) -> Result<()> {
    Err(Error::argument("softmax", "not written yet"))
}

pub(crate) fn softmax_grad(_grad: View, _y: View, _dim: usize, _log: bool, _out: ViewMut) -> Result<()> {
    Err(Error::argument("softmax_grad", "not written yet"))
}
