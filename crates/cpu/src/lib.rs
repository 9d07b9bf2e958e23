//! The CPU backend of Kiln: every primitive of `Backend` in native Rust, parallel with rayon, vectorized
//! for the CPU that it runs on.
//!
//! `ops` has a file for each family of operations. What they share: `memory` owns buffers and turns the contract's untyped
//! views into checked typed pointers, `numeric` goes from a dtype to a Rust type, `engine` walks strided layouts, splits
//! work over threads and compiles loops for several instruction sets, `gemm` multiplies matrices, and `conv` convolves
//! with it.

mod conv;
mod device;
mod engine;
mod gemm;
mod memory;
mod numeric;
mod ops;
#[cfg(test)]
mod testing;

pub use device::{CpuBackend, backend};
