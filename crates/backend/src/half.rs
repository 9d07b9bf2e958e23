//! The Rust types of floats that are computed as `f32`: those of the rows `HALF` of the
//! [table of dtypes](crate::dtype_table).

pub use ::half::{bf16, f16};
