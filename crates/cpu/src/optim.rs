//! Optimizer steps.

use kiln_backend::{Error, OptimRule, OptimSlot, Result};

pub(crate) fn optimizer_step(_rule: &OptimRule, _lr: f64, _slots: &mut [OptimSlot]) -> Result<()> {
    Err(Error::argument("optimizer_step", "not written yet"))
}
