//! Copies between layouts and dtypes.

use crate::{
    contract::{Arguments, Checked, same_shape},
    error::Result,
    view::{View, ViewMut},
};

/// Arguments of [`copy`](CopyBackend::copy).
#[derive(Debug)]
pub struct CopyArgs<'a> {
    /// The tensor to copy.
    pub x: View<'a>,
    /// The copy, of any dtype.
    pub out: ViewMut<'a>,
}

impl Arguments for CopyArgs<'_> {
    fn check(&self) -> Result<()> {
        same_shape("copy", &[self.x.layout, self.out.layout])
    }
}

/// Copies and casts.
pub trait CopyBackend {
    /// Copies elements, converting the dtype as Rust's `as` does (nonzero is `true`, float to integer
    /// saturates).
    fn copy(&self, args: Checked<CopyArgs>) -> Result<()>;
}
