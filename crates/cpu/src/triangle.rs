//! Triangles of matrices.

use kiln_backend::{Error, Result, View, ViewMut};

pub(crate) fn triangle(_upper: bool, _diagonal: i64, _x: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("triangle", "not written yet"))
}
