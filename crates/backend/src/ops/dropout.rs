//! Dropout from a seed.

use crate::{RandomState, Result, View, ViewMut};

/// Dropout.
pub trait DropoutBackend {
    /// Zero with probability `p` (`0 <= p < 1`), else `x * (1 / (1 - p))`, the factor rounded to the computing
    /// type. Element `n` is kept if its 32-bit word is at least `p * 2^32`. The gradient is the same function of
    /// the incoming gradient.
    fn dropout(&self, p: f64, state: RandomState, x: View, out: ViewMut) -> Result<()>;
}
