//! Copies between layouts and dtypes.

use crate::{
    backend::{View, ViewMut},
    error::Result,
};

/// Copies and casts.
pub trait CopyBackend {
    /// Copies elements, converting the dtype as Rust's `as` does (nonzero is `true`, float to integer
    /// saturates).
    fn copy(&self, x: View, out: ViewMut) -> Result<()>;
}
