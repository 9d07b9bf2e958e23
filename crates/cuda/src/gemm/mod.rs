//! Matrix products by cuBLASLt: how strided operands become a GEMM (`problem`), what is applied to it (`epilogue`), and the
//! library's calls (`lt`).

pub(crate) mod epilogue;
pub(crate) mod lt;
pub(crate) mod problem;
