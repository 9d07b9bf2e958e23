//! The CPU backend of Kiln: every primitive of `Backend` in native Rust, parallel with rayon, vectorized
//! for the CPU that it runs on.
//!
//! `ops` has a file for each family of operations. What they share: `memory` owns buffers and turns the contract's untyped
//! views into checked typed pointers, `numeric` goes from a dtype to a Rust type, `engine` walks strided layouts, splits
//! work over threads and compiles loops for several instruction sets, `gemm` multiplies matrices, and `conv` convolves
//! with it.

mod conv;
mod engine;
mod gemm;
mod memory;
mod numeric;
mod ops;
#[cfg(test)]
mod testing;

#[cfg(doc)]
use kiln_backend::ErrorKind;
use kiln_backend::{Backend, Result};

/// The CPU as a device. It has no state: memory and threads belong to the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend;

/// The one CPU.
///
/// Kernels use the best instructions that it has, or those of the level that the environment variable `KILN_CPU` names
/// (`generic`, `avx2`, `avx512`), which is read once.
///
/// # Errors
/// [`ErrorKind::DeviceUnavailable`]: `KILN_CPU` names no level, or one that this CPU lacks.
pub fn backend() -> Result<&'static CpuBackend> {
    engine::level::check()?;
    Ok(&CpuBackend)
}

impl Backend for CpuBackend {}
