//! Kiln's CUDA backend: every primitive of [`Backend`](kiln_backend::Backend) on an NVIDIA GPU.
//!
//! - `libs` finds the driver, cuBLASLt, cuDNN and NVRTC at run time; `context` and `stream` wrap the driver's objects.
//! - `memory` is a device's memory: the caching allocator (`alloc`), copies of batches on a stream of their own
//!   (`copies`), and the buffers of tensors. Copies from ordinary host memory are staged in `pinned`; `page_locked` is
//!   for pinned CPU tensors.
//! - `images` chooses among the compiled images of `kernels/`, and `modules` loads them; `launch` and `params` mirror
//!   their signatures and structs.
//! - `gemm` plans matrix products for cuBLASLt, `conv` convolutions and `attention` attention for cuDNN, whose graph API is in
//!   `cudnn`. `plan_cache` keeps cuDNN's plans for later
//!   processes, and `described` builds them for devices that are not present.
//! - `nccl` is communication between devices.
//! - `report` lists all of this, what is missing, and which `fallbacks` were taken.
//! - `device` owns all of it, and `ops` implements the primitives, one file per family.
//!
//! Only downloads and synchronization wait for the device; errors that kernels detect are returned there.

mod alloc;
mod attention;
mod capture;
mod context;
mod conv;
mod copies;
mod cudnn;
mod described;
mod device;
mod error;
mod event;
mod fallbacks;
mod gemm;
mod generator;
mod image_format;
mod images;
pub mod launch;
mod library_dtypes;
mod libs;
mod mark;
mod memory;
mod modules;
mod nccl;
mod ops;
mod page_locked;
pub mod params;
mod pinned;
mod plan_cache;
mod plan_limit;
mod positions;
mod report;
mod stream;
mod view;

/// Plans for described devices: built ahead of time, and for the tests against the real cuDNN.
#[doc(hidden)]
pub mod convolution_plans {
    pub use crate::{
        attention::problem::{Pass, Problem as AttentionProblem, Strides},
        conv::problem::{Problem, VolumeProblem},
        described::{DescribedDevice, Planned, devices::DEVICES, problems, stub},
        image_format::Format,
        plan_cache::{DeviceKind, PlanCache},
    };
}

pub use context::DeviceInfo;
pub use device::{CudaBackend, backend, device_count};
pub use error::CudaError;
pub use event::Event;
pub use ops::convolution::with_direct_convolutions;
pub use plan_limit::with_plan_limit;
pub use report::report;
