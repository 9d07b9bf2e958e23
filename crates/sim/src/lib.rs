//! A simulated CUDA device: a shared library that replaces the driver, so that the CUDA backend runs, and is checked,
//! on machines without a GPU. `docs/simulator.md` says what this proves and what it cannot.
//!
//! Without the feature `device` there is nothing here: the device needs a C++ compiler.
#[cfg(feature = "device")]
mod account;
#[cfg(feature = "device")]
pub mod api;
#[cfg(feature = "device")]
mod arrival;
#[cfg(feature = "device")]
mod blas;
#[cfg(feature = "device")]
mod capture;
#[cfg(feature = "device")]
mod captures;
#[cfg(feature = "device")]
mod clock;
#[cfg(feature = "device")]
mod cubin;
#[cfg(feature = "device")]
mod delays;
#[cfg(feature = "device")]
mod dnn;
#[cfg(feature = "device")]
mod engine;
#[cfg(feature = "device")]
mod graph;
#[cfg(feature = "device")]
mod graphs;
#[cfg(feature = "device")]
mod history;
#[cfg(feature = "device")]
mod intervals;
#[cfg(feature = "device")]
mod json;
#[cfg(feature = "device")]
mod kind;
#[cfg(feature = "device")]
mod leaks;
#[cfg(feature = "device")]
mod memory;
#[cfg(feature = "device")]
mod module;
#[cfg(feature = "device")]
mod nccl;
#[cfg(feature = "device")]
mod profile;
#[cfg(feature = "device")]
mod ptx;
#[cfg(feature = "device")]
mod report;
#[cfg(feature = "device")]
mod status;
#[cfg(feature = "device")]
mod stream;
#[cfg(feature = "device")]
mod stream_id;
#[cfg(feature = "device")]
mod testing;
#[cfg(feature = "device")]
mod work;
#[cfg(feature = "device")]
mod world;

#[cfg(feature = "device")]
pub use blas::BlasStatus;
#[cfg(feature = "device")]
pub use blas::attributes::{Kind as Descriptor, LAYOUT, OPERATION, PREFERENCE};
#[cfg(feature = "device")]
pub use blas::heuristic::{Algorithm, Candidate};
#[cfg(feature = "device")]
pub use dnn::DnnStatus;
#[cfg(feature = "device")]
pub use dnn::attributes::{Attribute, KINDS, types};
#[cfg(feature = "device")]
pub use engine::{ENGINE_PATH, kernel_names};
#[cfg(feature = "device")]
pub use kind::Kind;
#[cfg(feature = "device")]
pub use nccl::status::NcclStatus;
#[cfg(feature = "device")]
pub use profile::{Faults, Jit, Nth, Order, Profile, Refused};
#[cfg(feature = "device")]
pub use report::{Counts, Finding, Window};
#[cfg(feature = "device")]
pub use status::{Status, error_codes};
#[cfg(feature = "device")]
pub use testing::Session;

/// What tests look at by itself. They are no unit tests, since those would compile the library once more, which takes longer
/// than all of them.
#[cfg(feature = "device")]
#[doc(hidden)]
pub mod parts {
    pub use crate::account::{Entry as Moved, around, moved_and_least};
    pub use crate::blas::kernel::product;
    pub use crate::cubin::{Invalid as InvalidCubin, bytes as cubin_bytes, parse as parse_cubin};
    pub use crate::delays::parse as parse_delays;
    pub use crate::engine::Range;
    pub use crate::intervals::Intervals;
    pub use crate::ptx::{Entry as PtxEntry, Error as PtxError, parse as parse_ptx};
}
