//! The CUDA backend of Kiln: every primitive of [`Backend`](kiln_backend::Backend) on an NVIDIA GPU.
//!
//! `libs` finds the driver, cuBLASLt and cuDNN at run time, `device` is a GPU with its `stream`, its memory (`alloc`,
//! `memory`, `pinned`, `page_locked`, `copies`) and its kernels (`modules`, and `launch` and `params`, which mirror `kernels/`); `gemm` plans
//! products for cuBLASLt and `conv` convolutions for cuDNN, and `ops` has the primitives. Nothing waits for the device but downloads and
//! synchronisation; errors that only kernels see come out there.

mod alloc;
mod context;
mod conv;
mod copies;
mod device;
mod error;
mod gemm;
mod generator;
pub mod launch;
mod libs;
mod memory;
mod modules;
mod ops;
mod page_locked;
pub mod params;
mod pinned;
mod stream;
mod view;

pub use context::DeviceInfo;
pub use device::{CudaBackend, backend, device_count};
pub use error::CudaError;
