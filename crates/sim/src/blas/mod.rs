//! cuBLASLt: its descriptors, its rules, and its products, computed in `f64` on the host as work of a stream.
pub mod attributes;
pub mod compute;
pub mod heuristic;
pub mod kernel;
pub mod problem;
mod status;
pub mod work;

use std::collections::HashMap;

use attributes::Record;
pub use status::BlasStatus;

/// What a process has created in cuBLASLt. Descriptors live in host memory, so they outlive contexts.
#[derive(Default)]
pub struct Blas {
    /// Handles of `cublasLtCreate`.
    pub handles: Vec<usize>,
    /// Descriptors, layouts and preferences.
    pub records: HashMap<usize, Record>,
}
