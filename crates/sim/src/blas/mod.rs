//! cuBLASLt: its descriptors, its rules, and its products, computed in `f64` on the host as work of a stream.
pub mod attributes;
pub mod compute;
pub mod heuristic;
pub mod kernel;
pub mod problem;
pub mod work;

use std::collections::HashMap;

use attributes::Record;

/// A `cublasStatus_t`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlasStatus(pub u32);

#[allow(missing_docs, reason = "the library's names for its statuses")]
impl BlasStatus {
    pub const SUCCESS: BlasStatus = BlasStatus(0);
    pub const NOT_INITIALIZED: BlasStatus = BlasStatus(1);
    pub const ALLOC_FAILED: BlasStatus = BlasStatus(3);
    pub const INVALID_VALUE: BlasStatus = BlasStatus(7);
    pub const EXECUTION_FAILED: BlasStatus = BlasStatus(13);
    pub const NOT_SUPPORTED: BlasStatus = BlasStatus(15);
}

/// What a process has created in cuBLASLt. Descriptors live in host memory, so they outlive contexts.
#[derive(Default)]
pub struct Blas {
    /// Handles of `cublasLtCreate`.
    pub handles: Vec<usize>,
    /// Descriptors, layouts and preferences.
    pub records: HashMap<usize, Record>,
}
