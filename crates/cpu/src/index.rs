//! Indexing.

use kiln_backend::{Error, Operand, Result, ScatterMode, View, ViewMut};

pub(crate) fn index_select(_x: View, _dim: usize, _index: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("index_select", "not written yet"))
}

pub(crate) fn index_add(_x: View, _dim: usize, _index: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("index_add", "not written yet"))
}

pub(crate) fn gather(_x: View, _dim: usize, _index: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("gather", "not written yet"))
}

pub(crate) fn scatter(_mode: ScatterMode, _x: Operand, _dim: usize, _index: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("scatter", "not written yet"))
}
