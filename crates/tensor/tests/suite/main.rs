//! The tests of this crate that need no process of their own: one program, because each is linked on its own, and brings its
//! copies of what is generic.

#[path = "../common/mod.rs"]
mod common;

mod anomaly;
mod autocast;
mod autograd_deep;
mod autograd_rules;
mod autograd_threads;
mod autograd_tutorial;
mod calc;
mod golden_display;
mod golden_grad_fn;
mod half_precision;
mod properties;
mod pytorch_rules;
mod ties;
