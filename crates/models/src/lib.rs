//! Ready-made models.

#![forbid(unsafe_code)]

mod mlp;

pub use mlp::Mlp;
