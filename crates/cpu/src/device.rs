//! The CPU as a device of tensors.

#[cfg(doc)]
use kiln_backend::ErrorKind;
use kiln_backend::{Backend, CaptureBackend, CommunicatorBackend, Result};

use crate::engine::level;

/// The CPU as a device. It has no state: memory and threads belong to the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuBackend;

/// The one CPU.
///
/// Kernels use the best instruction set that the CPU supports, or the one that the environment variable `KILN_CPU`
/// names (`generic`, `avx2`, `avx512`), which is read once.
///
/// # Errors
/// [`ErrorKind::DeviceUnavailable`] if `KILN_CPU` names no such level, or one that this CPU lacks.
pub fn backend() -> Result<&'static CpuBackend> {
    level::check()?;
    Ok(&CpuBackend)
}

impl CaptureBackend for CpuBackend {}

impl CommunicatorBackend for CpuBackend {}

impl Backend for CpuBackend {}
