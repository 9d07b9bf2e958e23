//! Matrix products by cuBLASLt.

pub(crate) mod lt;
pub(crate) mod problem;
