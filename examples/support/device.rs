//! The option `--device` of the examples.

use clap::ValueEnum;
use kiln::{Result, prelude::*};

#[derive(Clone, Copy, ValueEnum)]
pub enum DeviceName {
    Auto,
    Cpu,
    Cuda,
}

impl DeviceName {
    /// The device; `auto` is what `otherwise` says.
    pub fn open(self, otherwise: impl FnOnce() -> Device) -> Result<Device> {
        match self {
            DeviceName::Auto => Ok(otherwise()),
            DeviceName::Cpu => Ok(Device::Cpu),
            DeviceName::Cuda => Device::cuda(0),
        }
    }
}
