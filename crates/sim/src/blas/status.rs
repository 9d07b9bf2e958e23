//! The status codes of cuBLASLt.
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
