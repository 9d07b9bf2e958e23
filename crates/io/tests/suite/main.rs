//! The tests of this crate that need no process of their own: one program, because each is linked on its own, and brings its
//! copies of what is generic.

#[path = "../../../../tests/support/checkout.rs"]
mod checkout;

mod bad_files;
mod checkpoints;
mod hub;
mod model;
mod npy;
mod onnx;
mod optimizers;
mod pth;
mod rewrite;
mod state_dict;
