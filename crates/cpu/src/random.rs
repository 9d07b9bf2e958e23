//! Random numbers.

use kiln_backend::{Distribution, Error, RandomState, Result, ViewMut};

pub(crate) fn random(_distribution: Distribution, _state: RandomState, _out: ViewMut) -> Result<()> {
    Err(Error::argument("random", "not written yet"))
}
