//! The CUDA backend of Kiln.

pub mod launch;
pub mod params;
