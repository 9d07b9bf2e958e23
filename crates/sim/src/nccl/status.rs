//! The codes that NCCL's functions return.

/// A `ncclResult_t`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NcclStatus(pub i32);

#[allow(missing_docs, reason = "the library's names for its codes")]
impl NcclStatus {
    pub const SUCCESS: NcclStatus = NcclStatus(0);
    pub const UNHANDLED_CUDA_ERROR: NcclStatus = NcclStatus(1);
    pub const SYSTEM_ERROR: NcclStatus = NcclStatus(2);
    pub const INTERNAL_ERROR: NcclStatus = NcclStatus(3);
    pub const INVALID_ARGUMENT: NcclStatus = NcclStatus(4);
    pub const INVALID_USAGE: NcclStatus = NcclStatus(5);
    pub const REMOTE_ERROR: NcclStatus = NcclStatus(6);
}
