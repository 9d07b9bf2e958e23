//! What Kiln's backends and their callers share: element types, shapes, memory layouts, the descriptors of operations,
//! the [`Backend`] trait and the error type.
//!
//! There is no arithmetic on tensors here and no `unsafe`. The crate depends on nothing else of Kiln;
//! `kiln-cpu` and `kiln-cuda` implement [`Backend`], `kiln-tensor` calls it.

#![forbid(unsafe_code)]
// The tool attribute would make the macros of these modules unnameable by path.
#![allow(clippy::deprecated_cfg_attr)]

mod backend;
#[cfg_attr(rustfmt, rustfmt::skip)]
mod binary_table;
#[doc(hidden)]
pub mod call_sites;
mod capture;
mod communicator;
mod contract;
mod dims;
mod dtype;
#[cfg_attr(rustfmt, rustfmt::skip)]
mod dtype_table;
mod element;
mod error;
pub mod half;
mod host;
mod layout;
mod memory;
mod op;
mod ops;
mod scalar;
mod settings;
mod shape;
#[cfg(test)]
mod testing;
#[cfg_attr(rustfmt, rustfmt::skip)]
mod unary_table;
mod user_dir;
mod view;

pub use backend::Backend;
pub use capture::{CaptureBackend, CapturedWork, is_capturing, refuse_capture, set_capturing, unless_capturing};
pub use communicator::{CollectiveOp, Communicator, CommunicatorBackend, DeviceCollective, Transfer};
pub use contract::{Arguments, Checked, has_dim, has_dtype, has_shape, is_float, same_shape};
pub use dims::{Dim, DimList, Dims};
pub use dtype::DType;
pub use element::Element;
pub use error::{Error, ErrorKind, FailedLayer, FailedSample, Result};
pub use host::HostVec;
pub use layout::Layout;
pub use memory::{Bytes, MemoryStats};
pub use op::{BinaryOp, Integers, Saved, SideOf, UnaryOp};
pub use ops::*;
pub use scalar::Scalar;
pub use settings::{
    Float32Precision, are_deterministic_algorithms_enabled, convolution_benchmark, float32_matmul_precision,
    set_convolution_benchmark, set_float32_matmul_precision, use_deterministic_algorithms, with_tf32,
};
pub use shape::{MAX_RANK, Shape};
pub use user_dir::cache_dir;
pub use view::{Buffer, HostMemory, Operand, View, ViewMut};
