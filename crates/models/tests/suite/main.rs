//! The tests of this crate that need no process of their own: one program, because each is linked on its own, and brings its
//! copies of what is generic.

#[path = "../common/mod.rs"]
mod common;

mod mlp;
mod stochastic_depth;
mod torchvision;
mod vgg;
