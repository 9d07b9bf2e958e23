//! Kiln's CPU backend: every primitive of `Backend` in native Rust, parallel with rayon, vectorized for the CPU that it
//! runs on.
//!
//! `ops` has one file per family of operations. They share: `memory`, which owns buffers and turns the contract's
//! untyped views into checked typed pointers; `numeric`, which maps dtypes to Rust types; `engine`, which walks strided
//! layouts, divides work among threads and compiles loops for several instruction sets; `gemm`, which multiplies
//! matrices; and `conv`, which convolves with it.

mod conv;
mod device;
mod engine;
mod gemm;
mod memory;
mod numeric;
mod ops;

pub use device::{CpuBackend, backend};
