//! cuDNN: its descriptors, its rules, its convolutions and its attention, computed in `f64` on the host as work of a stream.
pub mod attention;
pub mod attributes;
mod complete;
pub mod computation;
pub mod compute;
pub mod finalize;
mod fusion;
pub mod heuristic;
pub mod image;
pub mod operation;
mod patterns;
pub mod plan_text;
pub mod problem;
mod status;
pub mod work;

use std::collections::HashMap;

use attributes::Record;
pub use status::{DnnStatus, Refusal, bad};

/// What a process has created in cuDNN. Descriptors live in host memory, so they outlive contexts.
#[derive(Default)]
pub struct Dnn {
    /// Handles of `cudnnCreate`, with the stream of each.
    pub handles: HashMap<usize, usize>,
    pub descriptors: HashMap<usize, Record>,
    /// The reason for the last failure.
    pub last_error: String,
}
