//! Shared by the tests: golden files, and comparison of tensors.

#![allow(dead_code)] // every test file uses its own part of it

pub mod args;
pub mod compare;
pub mod golden;
pub mod values;

/// Runs `f` on a thread with a small stack, so that a recursion as deep as a graph overflows it.
pub fn on_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 * 1024).spawn(f).unwrap().join().unwrap();
}
