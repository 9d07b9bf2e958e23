//! Devices: where a tensor lives, and which backend serves it. The only file that knows which backends are built in.

use std::{fmt, str::FromStr};

use kiln_backend::{Backend, Error, ErrorKind, MemoryStats, Result};
use kiln_derive::located;

/// A device for tensors: the CPU, or the n-th CUDA GPU.
///
/// Code that names a device compiles in every build; a backend that is not built in, or not usable on this machine, is
/// an error when it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU, with the crate feature `cpu` (on by default).
    #[default]
    Cpu,
    /// A CUDA GPU by index, with the crate feature `cuda`. [`Device::cuda`] checks that it is usable.
    Cuda(usize),
}

#[located(site)]
impl Device {
    /// The CUDA GPU with this index.
    ///
    /// # Errors
    /// [`ErrorKind::DeviceUnavailable`] with the reason: the crate was built without a CUDA backend, the machine has no such
    /// GPU or no driver, or its libraries are for different major versions of CUDA. [`cuda::report`](crate::cuda::report)
    /// says what there is.
    pub fn cuda(index: usize) -> Result<Device> {
        let device = Device::Cuda(index);
        device.backend().map(|_| device)
    }

    /// The first CUDA GPU if it is usable, else the CPU.
    #[must_use]
    pub fn cuda_if_available() -> Device {
        Device::cuda(0).unwrap_or(Device::Cpu)
    }

    /// Whether this is a CUDA GPU.
    #[must_use]
    pub fn is_cuda(self) -> bool {
        matches!(self, Device::Cuda(_))
    }

    /// Waits until all work queued on the device is done. Operations do not wait; reading values does.
    ///
    /// # Errors
    /// If the device is not available, or work queued earlier failed.
    pub fn synchronize(self) -> Result<()> {
        self.backend()?.synchronize()
    }

    /// The memory that tensors use on the device, in bytes.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn memory_stats(self) -> Result<MemoryStats> {
        Ok(self.backend()?.memory_stats())
    }

    /// Resets the measurement of peak memory.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn reset_peak_memory(self) -> Result<()> {
        self.backend()?.reset_peak_memory();
        Ok(())
    }

    /// Returns cached free memory to the system.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn empty_cache(self) -> Result<()> {
        self.backend()?.empty_cache();
        Ok(())
    }

    pub(crate) fn backend(self) -> Result<&'static dyn Backend> {
        match self {
            #[cfg(feature = "cpu")]
            Device::Cpu => Ok(kiln_cpu::backend()?),
            #[cfg(not(feature = "cpu"))]
            Device::Cpu => Err(self.unavailable("Kiln was built without the feature `cpu`")),
            #[cfg(feature = "cuda")]
            Device::Cuda(index) => Ok(kiln_cuda::backend(index)?),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(self.unavailable("Kiln was built without the feature `cuda`")),
        }
    }

    #[allow(dead_code)] // with both features on and a CUDA backend, nothing may need it
    fn unavailable(self, reason: &str) -> Error {
        ErrorKind::DeviceUnavailable { device: self.to_string(), reason: reason.into() }.into()
    }
}

/// For [`report`](crate::cuda::report).
pub(crate) fn cuda_report() -> String {
    #[cfg(feature = "cuda")]
    return kiln_cuda::report();
    #[cfg(not(feature = "cuda"))]
    "missing: Kiln was built without the feature `cuda`. To fix it, build with `--features cuda`, where nvcc is installed\n".into()
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.pad("cpu"),
            Device::Cuda(index) => f.pad(&format!("cuda:{index}")),
        }
    }
}

/// Reads `cpu`, `cuda` (the first GPU) and `cuda:1`.
impl FromStr for Device {
    type Err = Error;
    fn from_str(name: &str) -> Result<Device> {
        match name.split_once(':') {
            None if name == "cpu" => Ok(Device::Cpu),
            None if name == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", index)) if index.parse::<usize>().is_ok() => Ok(Device::Cuda(index.parse().unwrap_or(0))),
            _ => Err(Error::argument("device", format!("{name:?} is not one of \"cpu\", \"cuda\", \"cuda:N\""))),
        }
    }
}
