//! The CUDA backend of Kiln: every primitive of [`Backend`](kiln_backend::Backend) on an NVIDIA GPU.
//!
//! - `libs` finds the driver, cuBLASLt, cuDNN and NVRTC at run time; `context` and `stream` wrap the driver's.
//! - `memory` is a device's memory: the caching allocator (`alloc`), batches that arrive beside the compute stream
//!   (`copies`), and the buffers of tensors. Host memory is staged in `pinned`; `page_locked` is for tensors of the CPU.
//! - `images` chooses between the compiled images of `kernels/`, and `modules` loads them; `launch` and `params` mirror their signatures and structs.
//! - `gemm` plans products for cuBLASLt, `conv` convolutions for cuDNN.
//! - `report` says what there is of all this and what is missing, and which `fallbacks` were taken.
//! - `device` holds all of it, and `ops` implements the primitives, a file for each family.
//!
//! Nothing waits for the device but downloads and synchronization; errors that only kernels see come out there.

mod alloc;
mod context;
mod conv;
mod copies;
mod device;
mod error;
mod event;
mod fallbacks;
mod gemm;
mod generator;
mod images;
pub mod launch;
mod libs;
mod memory;
mod modules;
mod ops;
mod page_locked;
pub mod params;
mod pinned;
mod plan_limit;
mod report;
mod stream;
mod view;

/// Plans for devices that are described, for the tests against the real cuDNN.
#[doc(hidden)]
pub mod convolution_plans {
    pub use crate::conv::{
        described::{DescribedDevice, Planned},
        problem::{Direction, Format, Problem},
    };
}

pub use context::DeviceInfo;
pub use device::{CudaBackend, backend, device_count};
pub use error::CudaError;
pub use event::Event;
pub use plan_limit::with_plan_limit;
pub use report::report;
