//! Dropout.

use kiln_backend::{Error, RandomState, Result, View, ViewMut};

pub(crate) fn dropout(_p: f64, _state: RandomState, _x: View, _out: ViewMut) -> Result<()> {
    Err(Error::argument("dropout", "not written yet"))
}
