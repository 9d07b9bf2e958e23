//! The CPU as a device.

#[cfg(doc)]
use kiln_backend::ErrorKind;
use kiln_backend::{Backend, Result};

use crate::engine::level;

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
    level::check()?;
    Ok(&CpuBackend)
}

impl Backend for CpuBackend {}
