//! The report of the machine's CUDA installation.

/// Describes the driver, each GPU, cuBLASLt, cuDNN and NVRTC (with version and file), and the built-in kernels; what is
/// missing, with where it was searched for and how to fix it; and which fallbacks this process has taken. It opens no
/// device, and works without a GPU, a driver, or the crate feature `cuda`. The text is meant for people to read.
#[must_use]
pub fn report() -> String {
    crate::device::cuda_report()
}

/// Convolution plans for devices that need not be present: for `examples/compile_plans.rs`.
#[cfg(feature = "plans")]
#[doc(hidden)]
pub mod plans {
    pub use kiln_backend::{Conv2dCall, with_conv2d_calls};
    pub use kiln_cuda::convolution_plans::*;
}
