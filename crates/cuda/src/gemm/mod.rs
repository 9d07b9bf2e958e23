//! Matrix products by cuBLASLt: how strided operands become a GEMM (`problem`), and the library's calls (`lt`).

pub(crate) mod lt;
pub(crate) mod problem;
