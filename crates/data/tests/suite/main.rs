//! The tests of this crate that need no process of their own: one program, because each is linked on its own, and brings its
//! copies of what is generic.

#[path = "../../../../tests/support/checkout.rs"]
mod checkout;

mod decoders;
mod encoders;
mod folders;
mod loader;
mod splits;
