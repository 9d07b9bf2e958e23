//! Tensors, their operations and the autograd tape.
//!
//! A [`Tensor`] method checks shapes and dtypes in one place, calls one primitive of the
//! [`Backend`](kiln_backend::Backend) of its device, and appends one node to the tape if gradients are on.
//! Methods are named as in PyTorch and return [`Result`].

#![forbid(unsafe_code)]

pub mod autocast;
pub mod autograd;
#[doc(hidden)]
pub mod calc;
pub mod captured;
mod creation;
pub mod cuda;
mod device;
mod display;
#[cfg(feature = "linalg")]
#[cfg_attr(docsrs, doc(cfg(feature = "linalg")))]
pub mod linalg;
#[cfg(feature = "ndarray")]
mod ndarray_interop;
pub mod op_table;
mod ops;
mod raw_memory;
mod snapshot;
mod state_dict;
mod storage;
mod tensor;

pub use autocast::{
    AutocastGuard, autocast, autocast_dtype, autocast_guard, autocast_off, autocast_off_guard, is_autocast_enabled,
};
pub use autograd::{enable_grad, no_grad, no_grad_guard};
pub use captured::CapturedStep;
#[doc(hidden)]
pub use creation::ExtentList;
pub use creation::{
    Extents, Nested, TensorOptions, WindowFunction, manual_seed, random_state, set_random_state, take_random_seed,
};
pub use device::Device;
pub use kiln_backend::{
    ClassLoss, ClassLossInput, Conv1d, Conv2d, Conv3d, Convolution, DType, Dim, Dims, Element, Error, ErrorKind,
    FailedLayer, FailedSample, Float32Precision, MAX_RANK, MemoryStats, OptimRule, PointwiseLossKind, PoolDivisor,
    Reduction, Result, Scalar, Shape, are_deterministic_algorithms_enabled, convolution_benchmark,
    float32_matmul_precision, set_convolution_benchmark, set_float32_matmul_precision, use_deterministic_algorithms,
};
#[doc(hidden)]
pub use kiln_backend::{call_sites, for_each_element};
#[doc(hidden)]
pub use kiln_derive::calc_in;
/// The version of the `ndarray` crate whose arrays [`Tensor::from_ndarray`] takes, 0.17: use this re-export, so that
/// versions agree.
#[cfg(feature = "ndarray")]
pub use ndarray;
#[cfg(feature = "ndarray")]
pub use ndarray_interop::{NdarrayGuard, NdarrayGuardMut};
pub use ops::{
    At, AttentionOptions, BagMode, BagOptions, BatchNorm, Contraction, Correction, Ellipsis, GradScaling, GridMode,
    GridPadding, GridSample, IndexItem, Indexer, InterpolateMode, Interpolation, NewAxis, OneOrAll, OptimTensors,
    OutputSize, PadMode, Pooling, Repeats, Rhs, RoundingMode, Running, ScaleGrowth, ScatterReduction, SlidingWindow,
    SplitSizes, Splits, optimizer_step, step, unscale_grads, update_scale,
};
#[doc(hidden)]
pub use raw_memory::RawMemory;
pub use snapshot::MemorySnapshot;
pub use state_dict::StateDict;
pub use tensor::Tensor;
