//! Ready-made models.

#![forbid(unsafe_code)]

mod mlp;

use kiln_nn::saved::Registry;

pub use mlp::Mlp;

/// The layers of `kiln-nn` and the models of this crate, for files that hold whole models.
#[must_use]
pub fn registry() -> Registry {
    Registry::new().with::<Mlp>()
}
